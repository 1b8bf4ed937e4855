//! The files of a folder, as little of them as the store needs, so that tests can put a disk in their place
//! that loses power, runs full and tears writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::FileStoreError;

/// A folder.
pub(super) trait Disk: Send + Sync + 'static {
    /// The files in it.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A file, to read and to write; an empty one if there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns once the present names of files survive a loss of power.
    fn sync_names(&self) -> io::Result<()>;

    /// The file's name for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub(super) trait DiskFile: Send {
    fn len(&mut self) -> io::Result<u64>;

    /// Reads up to so many bytes; fewer only at the end of the file.
    fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes at an offset, which is the end of the file or before it.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Returns once what was written survives a loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the machine, which belongs to this process while this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// The file whose lock says that the folder is in use. Its content is who holds it, for people.
const LOCK: &str = "lock";

impl Folder {
    /// Makes the folder if it is not there, and takes it.
    pub(super) fn take(path: &Path) -> Result<Self, FileStoreError> {
        let failed =
            |doing: &'static str| move |source| FileStoreError::Io { doing, path: path.to_owned(), source };
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        std::fs::create_dir_all(path).map_err(failed("create the folder"))?;
        for parent in missing.iter().filter_map(|folder| folder.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            sync_folder(parent).map_err(failed("sync the folder above"))?;
        }
        let name = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&name)
            .map_err(failed("open the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = lock.read_to_string(&mut holder);
                let holder = read.ok().and_then(|_| holder.trim().parse().ok());
                return Err(FileStoreError::Locked { folder: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        lock.set_len(0).map_err(failed("write the lock file in"))?;
        writeln!(lock, "{}", std::process::id()).map_err(failed("write the lock file in"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere a folder is no file that could be synced; names are journaled there.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().into_string().ok()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().flatten().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl DiskFile for File {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len);
        Read::by_ref(self).take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
