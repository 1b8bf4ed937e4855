//! A tarball that depends on nothing but its content.

use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::Entry;

/// Packs the entries, in their order, into a folder; every entry carries `time` and no owner.
pub(super) fn pack(folder: &str, entries: &[Entry], time: u64) -> io::Result<Vec<u8>> {
    // Without a name or a time of its own in its header, the same content gives the same bytes.
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(if entry.executable { 0o755 } else { 0o644 });
        header.set_mtime(time);
        header.set_size(entry.content.len() as u64);
        tar.append_data(&mut header, format!("{folder}/{}", entry.name), entry.content.as_slice())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_packed_comes_out_and_packing_repeats() {
        let entries = || {
            let entry = |name: &str, executable| Entry {
                name: name.to_owned(),
                content: name.repeat(3).into_bytes(),
                executable,
            };
            [entry("gantry-server", true), entry("LICENSE", false)]
        };
        let packed = pack("gantry-1", &entries(), 1_700_000_000).unwrap();
        assert_eq!(packed, pack("gantry-1", &entries(), 1_700_000_000).unwrap());

        let mut archive = tar::Archive::new(GzDecoder::new(packed.as_slice()));
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let (mode, time) = (entry.header().mode().unwrap(), entry.header().mtime().unwrap());
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            seen.push((path, mode, time, content.len()));
        }
        let expected = [("gantry-1/gantry-server", 0o755, 39), ("gantry-1/LICENSE", 0o644, 21)];
        assert_eq!(seen, expected.map(|(path, mode, size)| (path.to_owned(), mode, 1_700_000_000, size)));
    }
}
