//! How entries stand in a file: a few words that say what the file is, then frames.
//!
//! ```text
//! file   "gantry task log\n"  version u32  frame*
//! frame  length u32  crc u32  entry*          integers are little-endian
//! ```
//!
//! The checksum (CRC-32 of ISO 3309) is over the file's number, the frame's offset, its length and its
//! entries: a frame that stands somewhere else than it was written is none.

use std::io;

use super::disk::DiskFile;

const MAGIC: &[u8; 16] = b"gantry task log\n";
/// The version that is written. Whoever changes how a frame or an entry is read raises it, and goes on
/// reading the ones before; a snapshot is always written anew, which is what brings a folder up to date.
pub(super) const VERSION: u32 = 1;
/// What stands before the first frame.
pub(super) const HEAD: u64 = 20;
/// What stands before a frame's entries.
const FRAME_HEAD: usize = 8;
/// The longest frame: whatever says more is damaged.
pub(super) const FRAME_MAX: usize = 1 << 30;
/// How much is read at once.
pub(super) const READ: usize = 4 << 20;

/// What a file begins with.
pub(super) fn head() -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head
}

fn checksum(number: u64, offset: u64, length: [u8; 4], entries: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&length);
    hasher.update(entries);
    hasher.finalize()
}

/// Makes a frame out of entries for which `buffer` has left room at its front.
pub(super) fn seal(buffer: &mut [u8], number: u64, offset: u64) {
    let Some((head, entries)) = buffer.split_at_mut_checked(FRAME_HEAD) else { return };
    let length = (entries.len() as u32).to_le_bytes();
    let crc = checksum(number, offset, length, entries).to_le_bytes();
    head.copy_from_slice(&[length, crc].concat());
}

/// An empty buffer for [`seal`].
pub(super) fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(FRAME_HEAD, 0);
}

/// Whether nothing has been put into a buffer for [`seal`].
pub(super) fn is_clear(buffer: &[u8]) -> bool {
    buffer.len() <= FRAME_HEAD
}

/// Where a file stops making sense, and why.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) offset: u64,
    pub(super) what: String,
}

/// Goes through the frames of a file.
pub(super) struct Frames {
    file: Box<dyn DiskFile>,
    number: u64,
    /// Where the next frame begins.
    offset: u64,
    file_len: u64,
    /// What has been read, from `buffered_at` on.
    buffer: Vec<u8>,
    buffered_at: u64,
}

impl Frames {
    /// Looks at a file's head. A flaw may be of a file that was being made.
    pub(super) fn open(mut file: Box<dyn DiskFile>, number: u64) -> io::Result<Result<Self, Flaw>> {
        let file_len = file.len()?;
        let head = file.read(0, HEAD as usize)?;
        let flaw = |offset, what: &str| Ok(Err(Flaw { offset, what: what.to_owned() }));
        let Some((magic, version)) = head.split_at_checked(MAGIC.len()) else {
            return flaw(0, "the file is shorter than its head");
        };
        if magic != MAGIC {
            return flaw(0, "this is no file of a task store");
        }
        match version.try_into().map(u32::from_le_bytes) {
            Ok(VERSION) => {}
            Ok(other) => {
                let what = format!("the format is version {other}, and this program reads version {VERSION}");
                return flaw(MAGIC.len() as u64, &what);
            }
            Err(_) => return flaw(MAGIC.len() as u64, "the file is shorter than its head"),
        }
        Ok(Ok(Self { file, number, offset: HEAD, file_len, buffer: Vec::new(), buffered_at: HEAD }))
    }

    /// Where the next frame begins, or the file ends.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) const fn file_len(&self) -> u64 {
        self.file_len
    }

    pub(super) fn into_file(self) -> Box<dyn DiskFile> {
        self.file
    }

    /// The entries of the next frame; none at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Result<Option<&[u8]>, Flaw>> {
        let offset = self.offset;
        if offset == self.file_len {
            return Ok(Ok(None));
        }
        let flaw = |what: &str| Ok(Err(Flaw { offset, what: what.to_owned() }));
        let Some(head) = self.fill(FRAME_HEAD)? else { return flaw("a frame is cut short") };
        let (length, crc) = head.split_at(4);
        let (Ok(length), Ok(crc)) = (<[u8; 4]>::try_from(length), <[u8; 4]>::try_from(crc)) else {
            return flaw("a frame is cut short");
        };
        let whole = FRAME_HEAD + u32::from_le_bytes(length) as usize;
        if whole > FRAME_MAX || whole == FRAME_HEAD {
            return flaw("a frame has an impossible length");
        }
        let number = self.number;
        let Some(frame) = self.fill(whole)? else { return flaw("a frame is cut short") };
        let is_right = frame
            .get(FRAME_HEAD..)
            .is_some_and(|entries| checksum(number, offset, length, entries) == u32::from_le_bytes(crc));
        if !is_right {
            return flaw("a frame's checksum is wrong");
        }
        self.offset += whole as u64;
        let from = (offset - self.buffered_at) as usize + FRAME_HEAD;
        Ok(Ok(self.buffer.get(from..from + whole - FRAME_HEAD)))
    }

    /// So many bytes from the present offset on, if the file has them.
    fn fill(&mut self, len: usize) -> io::Result<Option<&[u8]>> {
        if self.offset + len as u64 > self.file_len {
            return Ok(None);
        }
        let mut from = (self.offset - self.buffered_at) as usize;
        if from + len > self.buffer.len() {
            self.buffer.drain(..from.min(self.buffer.len()));
            self.buffered_at = self.offset;
            from = 0;
            let at = self.buffered_at + self.buffer.len() as u64;
            let more = self.file.read(at, (len - self.buffer.len()).max(READ))?;
            self.buffer.extend(more);
        }
        Ok(self.buffer.get(from..from + len))
    }
}
