//! The files of a store: what is appended to, what it is brought down to now and then, and how both are
//! read again.
//!
//! ```text
//! tasks-N.log    the changes since snapshot N, or all of them where N is 1
//! tasks-N.snap   everything before segment N
//! synced         how far the last segment has been acknowledged
//! lock           who has the folder
//! ```
//!
//! A batch of changes is one frame of the last segment, or several if it is long, and is acknowledged once
//! that has been synced: what a crash leaves of a long one is a beginning. A write that fails leaves a tail
//! of which nobody knows how much is there, so that it is cut off before anything else is written.
//!
//! After a crash, a tail past what was acknowledged that makes no sense is a write that was torn: it is cut
//! off, with a warning. Anything else that makes no sense is damage, and nothing is opened.

use std::io;
use std::sync::Arc;

use prost::Message;
use tracing::{debug, warn};

use super::FileStoreError;
use super::disk::{Disk, DiskFile};
use super::frame::{self, Flaw, Frames};
use crate::store::codec::{Begin, Entry, Kind};
use crate::store::image::{Frozen, Image};

/// How far the last segment has been acknowledged. It is written without a sync: it need not survive what
/// the segment itself survives by its sync, and tells a torn tail from a damaged one after all else.
const SYNCED: &str = "synced";
/// From which length on a frame is written, though more entries of its batch come.
const FRAME_LONG: usize = 16 << 20;
/// How much of a snapshot is written at once.
const SNAPSHOT_FRAME: usize = 1 << 20;

pub(super) fn segment_name(number: u64) -> String {
    format!("tasks-{number:08}.log")
}

pub(super) fn snapshot_name(number: u64) -> String {
    format!("tasks-{number:08}.snap")
}

fn number_of(name: &str, suffix: &str) -> Option<u64> {
    name.strip_prefix("tasks-")?.strip_suffix(suffix)?.parse().ok()
}

/// The open segment.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    synced: Box<dyn DiskFile>,
    number: u64,
    /// Up to where it has been synced.
    len: u64,
    /// Up to where it has been written.
    written: u64,
    /// What stands past that is to be cut off first.
    is_torn: bool,
    /// A segment after this one may be there that was not made to its end.
    has_next: bool,
    buffer: Vec<u8>,
}

impl Log {
    /// The buffer that is written: entries are put to its end.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Writes what the buffer has as a frame if that is long, so that no frame grows without bound.
    pub(super) fn write_if_long(&mut self) -> io::Result<()> {
        if self.buffer.len() < FRAME_LONG { Ok(()) } else { self.write_frame() }
    }

    /// Writes what the buffer has, and returns once that and what was written before is on disk. Where that
    /// fails nothing has been written, once [`Log::forget`] has been told.
    pub(super) fn append(&mut self) -> io::Result<()> {
        if !frame::is_clear(&self.buffer) {
            self.write_frame()?;
        }
        if self.written == self.len {
            return Ok(());
        }
        self.file.sync()?;
        self.is_torn = false;
        self.len = self.written;
        self.note_synced();
        Ok(())
    }

    fn write_frame(&mut self) -> io::Result<()> {
        if self.written == self.len {
            self.mend()?;
        }
        frame::seal(&mut self.buffer, self.number, self.written);
        self.is_torn = true;
        self.file.write(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        frame::clear(&mut self.buffer);
        Ok(())
    }

    /// What was written since the last sync does not count.
    pub(super) fn forget(&mut self) {
        frame::clear(&mut self.buffer);
        self.written = self.len;
    }

    /// Cuts off what a failed write has left.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            if self.has_next {
                let next = segment_name(self.number + 1);
                if self.disk.list()?.contains(&next) {
                    self.disk.remove(&next)?;
                }
                self.disk.sync_names()?;
                self.has_next = false;
            }
            // With no sync: the next one, of what is written or of a start, makes sure of this too.
            self.file.truncate(self.len)?;
            self.is_torn = false;
        }
        Ok(())
    }

    fn note_synced(&mut self) {
        let mut note = [self.number.to_le_bytes(), self.len.to_le_bytes()].concat();
        note.extend(crc32fast::hash(&note).to_le_bytes());
        if let Err(error) = self.synced.write(0, &note) {
            debug!(%error, "how far the log has been synced was not noted");
        }
    }

    /// Whether the last write failed, so that only the next one makes sure of what this segment ends with.
    pub(super) const fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Goes on in a new segment after one that is whole, and tells its number: a snapshot of what was before it makes the earlier
    /// ones superfluous.
    pub(super) fn roll(&mut self) -> io::Result<u64> {
        let number = self.number + 1;
        // Until the new one is whole, it must not be there: see `mend`.
        (self.is_torn, self.has_next) = (true, true);
        let (file, len) = create_segment(&*self.disk, number, self.len)?;
        (self.is_torn, self.has_next) = (false, false);
        (self.file, self.number, self.len, self.written) = (file, number, len, len);
        self.note_synced();
        Ok(number)
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }
}

fn create_segment(disk: &dyn Disk, number: u64, previous_len: u64) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let mut file = disk.open(&segment_name(number))?;
    file.truncate(0)?;
    let head = frame::head();
    let mut buffer = Vec::new();
    frame::clear(&mut buffer);
    let begin = Entry { kind: Some(Kind::Begin(Begin { number, previous_len })) };
    begin.encode_length_delimited(&mut buffer).map_err(io::Error::other)?;
    frame::seal(&mut buffer, number, head.len() as u64);
    let whole = [head, buffer].concat();
    file.write(0, &whole)?;
    file.sync()?;
    disk.sync_names()?;
    Ok((file, whole.len() as u64))
}

/// Writes a snapshot of everything before segment `number`, and removes what it replaces. Tells its size.
pub(super) fn write_snapshot(disk: &dyn Disk, number: u64, frozen: Frozen) -> io::Result<u64> {
    let draft = format!("{}.tmp", snapshot_name(number));
    let mut file = disk.open(&draft)?;
    file.truncate(0)?;
    let head = frame::head();
    file.write(0, &head)?;
    let mut len = head.len() as u64;
    let mut buffer = Vec::new();
    frame::clear(&mut buffer);
    let mut count = 0_u64;
    let begin = std::iter::once(Kind::Begin(Begin { number, previous_len: 0 }));
    for kind in begin.chain(frozen.entries()) {
        Entry { kind: Some(kind) }.encode_length_delimited(&mut buffer).map_err(io::Error::other)?;
        count += 1;
        if buffer.len() >= SNAPSHOT_FRAME {
            frame::seal(&mut buffer, number, len);
            file.write(len, &buffer)?;
            len += buffer.len() as u64;
            frame::clear(&mut buffer);
        }
    }
    Entry { kind: Some(Kind::End(count)) }.encode_length_delimited(&mut buffer).map_err(io::Error::other)?;
    frame::seal(&mut buffer, number, len);
    file.write(len, &buffer)?;
    len += buffer.len() as u64;
    file.sync()?;
    disk.rename(&draft, &snapshot_name(number))?;
    disk.sync_names()?;
    remove_older(disk, number)?;
    Ok(len)
}

/// Removes what a snapshot has made superfluous, and drafts.
fn remove_older(disk: &dyn Disk, snapshot: u64) -> io::Result<()> {
    for name in disk.list()? {
        let is_old = [".log", ".snap"]
            .into_iter()
            .any(|suffix| number_of(&name, suffix).is_some_and(|number| number < snapshot));
        if is_old || name.ends_with(".snap.tmp") {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// Reads everything, and opens the last segment to go on in it.
pub(super) struct Recovery<'a> {
    disk: &'a Arc<dyn Disk>,
    image: &'a mut Image,
}

/// What a recovery found.
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) snapshot_bytes: u64,
    /// How many bytes of a torn write were cut off.
    pub(super) cut: u64,
}

impl<'a> Recovery<'a> {
    pub(super) const fn new(disk: &'a Arc<dyn Disk>, image: &'a mut Image) -> Self {
        Self { disk, image }
    }

    pub(super) fn run(&mut self) -> Result<Recovered, FileStoreError> {
        let names = self.disk.list().map_err(|source| self.failed("list", ".", source))?;
        let newest = |suffix| names.iter().filter_map(|name| number_of(name, suffix)).max();
        let snapshot = newest(".snap");
        let first = snapshot.unwrap_or(1);
        let acknowledged = self.acknowledged(&names)?;
        let Some(last) = newest(".log").filter(|last| *last >= first) else {
            return match (snapshot, acknowledged) {
                (None, None) => self.begin(),
                _ => Err(self.missing(&segment_name(acknowledged.map_or(first, |(number, _)| number)))),
            };
        };
        if let Some((number, _)) = acknowledged
            && number > last
        {
            return Err(self.missing(&segment_name(number)));
        }
        let mut snapshot_bytes = 0;
        if let Some(number) = snapshot {
            snapshot_bytes = self.read_snapshot(number)?;
        }
        let mut previous_len = None;
        for number in first..last {
            if !names.contains(&segment_name(number)) {
                return Err(self.missing(&segment_name(number)));
            }
            let frames = self.read_segment(number, previous_len)?;
            let frames = frames.map_err(|flaw| self.damaged(&segment_name(number), flaw))?;
            previous_len = Some(frames.file_len());
        }
        self.read_last(last, previous_len, acknowledged, snapshot_bytes)
    }

    /// A folder in which nothing is yet.
    fn begin(&mut self) -> Result<Recovered, FileStoreError> {
        let name = segment_name(1);
        let (file, len) =
            create_segment(&**self.disk, 1, 0).map_err(|source| self.failed("create", &name, source))?;
        let log = self.log(file, 1, len)?;
        Ok(Recovered { log, snapshot_bytes: 0, cut: 0 })
    }

    fn log(&self, file: Box<dyn DiskFile>, number: u64, len: u64) -> Result<Log, FileStoreError> {
        let synced = self.disk.open(SYNCED).map_err(|source| self.failed("open", SYNCED, source))?;
        let disk = Arc::clone(self.disk);
        let mut buffer = Vec::new();
        frame::clear(&mut buffer);
        let mut log =
            Log { disk, file, synced, number, len, written: len, is_torn: false, has_next: false, buffer };
        log.note_synced();
        Ok(log)
    }

    /// How far which segment has been acknowledged, if that is known.
    fn acknowledged(&self, names: &[String]) -> Result<Option<(u64, u64)>, FileStoreError> {
        if !names.iter().any(|name| name == SYNCED) {
            return Ok(None);
        }
        let read = self.disk.open(SYNCED).and_then(|mut file| file.read(0, 64));
        let note = read.map_err(|source| self.failed("read", SYNCED, source))?;
        let parsed = note.split_at_checked(16).and_then(|(numbers, crc)| {
            let crc = u32::from_le_bytes(crc.try_into().ok()?);
            let (number, len) = numbers.split_at(8);
            let number = u64::from_le_bytes(number.try_into().ok()?);
            let len = u64::from_le_bytes(len.try_into().ok()?);
            (crc32fast::hash(numbers) == crc).then_some((number, len))
        });
        if parsed.is_none() && !note.is_empty() {
            warn!(file = %self.disk.path(SYNCED).display(), "unreadable, and made anew");
        }
        Ok(parsed)
    }

    fn read_snapshot(&mut self, number: u64) -> Result<u64, FileStoreError> {
        let name = snapshot_name(number);
        let io = |this: &Self, source| this.failed("read", &name, source);
        let file = self.disk.open(&name).map_err(|source| io(self, source))?;
        let mut frames = match Frames::open(file, number).map_err(|source| io(self, source))? {
            Ok(frames) => frames,
            Err(flaw) => return Err(self.damaged(&name, flaw)),
        };
        let mut count = 0;
        let mut is_whole = false;
        loop {
            let offset = frames.offset();
            match frames.next().map_err(|source| io(self, source))? {
                Ok(Some(entries)) => {
                    for kind in entries_of(entries, offset) {
                        let kind = kind.map_err(|flaw| self.damaged(&name, flaw))?;
                        is_whole = matches!(kind, Kind::End(said) if said == count);
                        count += 1;
                        self.apply(kind, &name, offset)?;
                    }
                }
                Ok(None) if is_whole => return Ok(frames.file_len()),
                Ok(None) => {
                    let what = "the file ends before its end".to_owned();
                    return Err(self.damaged(&name, Flaw { offset, what }));
                }
                Err(flaw) => return Err(self.damaged(&name, flaw)),
            }
        }
    }

    /// Reads a segment as far as it makes sense.
    fn read_segment(
        &mut self,
        number: u64,
        previous_len: Option<u64>,
    ) -> Result<Result<Frames, Flaw>, FileStoreError> {
        let name = segment_name(number);
        let io = |this: &Self, source| this.failed("read", &name, source);
        let file = self.disk.open(&name).map_err(|source| io(self, source))?;
        let mut frames = match Frames::open(file, number).map_err(|source| io(self, source))? {
            Ok(frames) => frames,
            Err(flaw) => return Ok(Err(flaw)),
        };
        loop {
            let offset = frames.offset();
            let entries = match frames.next().map_err(|source| io(self, source))? {
                Ok(Some(entries)) => entries,
                Ok(None) if offset > frame::HEAD => return Ok(Ok(frames)),
                Ok(None) => {
                    return Ok(Err(Flaw { offset, what: "the file ends before its first frame".to_owned() }));
                }
                Err(flaw) => return Ok(Err(flaw)),
            };
            for kind in entries_of(entries, offset) {
                let kind = kind.map_err(|flaw| self.damaged(&name, flaw))?;
                if let Kind::Begin(begin) = &kind
                    && let Some(len) = previous_len
                    && begin.previous_len != len
                {
                    let what = format!("it is {len} bytes long, and was {} once", begin.previous_len);
                    return Err(self.damaged(&segment_name(number - 1), Flaw { offset: len, what }));
                }
                self.apply(kind, &name, offset)?;
            }
        }
    }

    /// Reads the last segment, and cuts off what a torn write has left.
    fn read_last(
        &mut self,
        number: u64,
        previous_len: Option<u64>,
        acknowledged: Option<(u64, u64)>,
        snapshot_bytes: u64,
    ) -> Result<Recovered, FileStoreError> {
        let name = segment_name(number);
        let io = |this: &Self, doing, source| this.failed(doing, &name, source);
        let acknowledged = acknowledged.filter(|(of, _)| *of == number).map_or(0, |(_, len)| len);
        let flaw = match self.read_segment(number, previous_len)? {
            Ok(frames) if frames.offset() < acknowledged => Flaw {
                offset: frames.offset(),
                what: format!("the file ends, and {acknowledged} bytes of it had been acknowledged"),
            },
            Ok(frames) => {
                let len = frames.offset();
                let mut file = frames.into_file();
                self.secure(&mut *file, acknowledged, len).map_err(|source| io(self, "write", source))?;
                return Ok(Recovered { log: self.log(file, number, len)?, snapshot_bytes, cut: 0 });
            }
            Err(flaw) => flaw,
        };
        let mut file = self.disk.open(&name).map_err(|source| io(self, "open", source))?;
        let file_len = file.len().map_err(|source| io(self, "read", source))?;
        let is_foreign = flaw.offset < frame::HEAD && file_len >= frame::HEAD && !is_torn_head(&mut *file);
        if flaw.offset < acknowledged || is_foreign {
            return Err(self.damaged(&name, flaw));
        }
        let cut = file_len - flaw.offset;
        warn!(
            file = %self.disk.path(&name).display(),
            offset = flaw.offset,
            bytes = cut,
            reason = flaw.what,
            "the end of a write that was not acknowledged is cut off"
        );
        if flaw.offset <= frame::HEAD {
            // The segment was being made, and nothing has been written to it.
            let (file, len) = create_segment(&**self.disk, number, previous_len.unwrap_or(0))
                .map_err(|source| io(self, "create", source))?;
            return Ok(Recovered { log: self.log(file, number, len)?, snapshot_bytes, cut });
        }
        file.truncate(flaw.offset).map_err(|source| io(self, "truncate", source))?;
        self.secure(&mut *file, acknowledged, flaw.offset).map_err(|source| io(self, "write", source))?;
        Ok(Recovered { log: self.log(file, number, flaw.offset)?, snapshot_bytes, cut })
    }

    /// Makes sure of the last segment as it was read: it is about to be acted on, and may stand in the cache
    /// of a system whose disk has it otherwise. For what had not been acknowledged a sync alone would not do:
    /// where one has failed, the system takes for written what it could not write.
    fn secure(&self, file: &mut dyn DiskFile, from: u64, until: u64) -> io::Result<()> {
        for at in (from..until).step_by(frame::READ) {
            let bytes = file.read(at, frame::READ.min((until - at) as usize))?;
            file.write(at, &bytes)?;
        }
        file.sync()?;
        self.disk.sync_names()
    }

    fn apply(&mut self, kind: Kind, name: &str, offset: u64) -> Result<(), FileStoreError> {
        let applied = self.image.apply(kind);
        applied.map_err(|error| self.damaged(name, Flaw { offset, what: error.to_string() }))?;
        self.image.keep();
        Ok(())
    }

    fn failed(&self, doing: &'static str, name: &str, source: io::Error) -> FileStoreError {
        FileStoreError::Io { doing, path: self.disk.path(name), source }
    }

    fn missing(&self, name: &str) -> FileStoreError {
        FileStoreError::Missing { path: self.disk.path(name) }
    }

    fn damaged(&self, name: &str, Flaw { offset, what }: Flaw) -> FileStoreError {
        FileStoreError::Damaged { path: self.disk.path(name), offset, what }
    }
}

/// Whether the file begins with what is left of a head that was being written: of each byte that or a zero,
/// which a file system leaves where it has made room and not written.
fn is_torn_head(file: &mut dyn DiskFile) -> bool {
    let found = file.read(0, frame::HEAD as usize).unwrap_or_default();
    found.iter().zip(frame::head()).all(|(found, head)| *found == 0 || *found == head)
}

/// The entries of a frame.
fn entries_of(mut entries: &[u8], offset: u64) -> impl Iterator<Item = Result<Kind, Flaw>> {
    std::iter::from_fn(move || {
        if entries.is_empty() {
            return None;
        }
        let flaw = |what: &str| Flaw { offset, what: what.to_owned() };
        Some(match Entry::decode_length_delimited(&mut entries) {
            Ok(Entry { kind: Some(kind) }) => Ok(kind),
            Ok(Entry { kind: None }) => Err(flaw("an entry is of a kind that this program does not know")),
            Err(error) => {
                entries = &[];
                Err(flaw(&format!("an entry cannot be read: {error}")))
            }
        })
    })
}
