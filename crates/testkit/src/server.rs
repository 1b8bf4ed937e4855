//! One server: what all kinds have in common, above all the ways to hurt it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::link::Wires;
use crate::port::Port;
use crate::probe::Probe;
use crate::process::Process;
use crate::provision::Launch;
use crate::until::until_ready;
use crate::{ControlError, Link, StartError, background, watchdog};

/// How long a server has to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// One server process, or one that was found running.
///
/// Dropping it, the last clone of it, kills the process and removes its folder. All methods take `&self`, so
/// that a test can hurt a server while others use it.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    address: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    // In this order: what runs goes before the folder that it works in.
    process: Mutex<Option<Process>>,
    plan: Plan,
    folder: Mutex<Option<TempDir>>,
    wires: Option<Wires>,
    begun: Mutex<Option<Instant>>,
    ready_after: Mutex<Option<Duration>>,
}

/// How a server is started, each time anew.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) launch: Launch,
    pub(crate) arguments: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) probe: Probe,
    /// How long it may take to be ready.
    pub(crate) within: Duration,
    /// Held so that nobody else is given them.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) ports: Vec<Port>,
}

impl Server {
    /// A server of our own, not started yet. `address` is what clients are to use.
    pub(crate) fn own(
        name: &str,
        address: String,
        plan: Plan,
        folder: TempDir,
        wires: Option<Wires>,
    ) -> Self {
        let own = Own {
            process: Mutex::new(None),
            plan,
            folder: Mutex::new(Some(folder)),
            wires,
            begun: Mutex::new(None),
            ready_after: Mutex::new(None),
        };
        Self { inner: Arc::new(Inner { name: name.to_owned(), address, own: Some(own) }) }
    }

    /// A server that runs already and is somebody else's.
    pub(crate) fn foreign(name: &str, address: &str) -> Self {
        Self { inner: Arc::new(Inner { name: name.to_owned(), address: address.to_owned(), own: None }) }
    }

    /// What it is called in messages, such as `redis-3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Host and port for clients; those of its link, if it has one.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Host and port past its link: for a look at a server that its clients cannot reach.
    #[must_use]
    pub fn direct(&self) -> &str {
        self.inner.own.as_ref().map_or(&self.inner.address, |own| own.plan.probe.address())
    }

    /// Whether it was started here, so that it can be hurt.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.inner.own.is_some()
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let own = self.inner.own.as_ref()?;
        let mut process = lock(&own.process);
        let process = process.as_mut()?;
        matches!(process.ended(), Ok(None)).then(|| process.pid())
    }

    /// Whether its process runs; a paused one does.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// The folder that it works in: its data, its configuration, its `log`.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.inner.own.as_ref().map(|own| own.plan.folder.as_path())
    }

    /// Everything that it has printed, across restarts.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder().map(read_log).unwrap_or_default()
    }

    /// How long the last start took until the server was ready.
    #[must_use]
    pub fn ready_after(&self) -> Option<Duration> {
        *lock(&self.inner.own.as_ref()?.ready_after)
    }

    /// The link that its clients come through, if it was started with links.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        self.wires().map(Wires::clients)
    }

    /// Kills it (SIGKILL) and waits until it is gone. Nothing happens if it is down already.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotOurs`], or what the system said.
    pub async fn kill(&self) -> Result<(), ControlError> {
        self.stop(Signal::KILL).await
    }

    /// Asks it to end (SIGTERM) and waits for that; after 15 s it is killed.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub async fn terminate(&self) -> Result<(), ControlError> {
        self.stop(Signal::TERM).await
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotOurs`], [`ControlError::NotRunning`], or what the system said.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), ControlError> {
        self.signal(Signal::CONT)
    }

    /// Starts it again on the same port and data, and waits until it is ready; a running one is asked to end
    /// first.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotOurs`], or why it did not come back.
    pub async fn restart(&self) -> Result<(), ControlError> {
        self.terminate().await?;
        self.revive()?;
        self.ready().await
    }

    /// Starts it again without waiting: for members of a cluster that are ready only together. Nothing
    /// happens if it runs.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotOurs`], or why it could not be started.
    pub fn revive(&self) -> Result<(), ControlError> {
        self.owned()?;
        if !self.is_running() {
            self.begin()?;
        }
        Ok(())
    }

    /// Waits until it is ready: it answers its protocol, and has what it needs of its cluster.
    ///
    /// # Errors
    ///
    /// [`StartError::Exited`] or [`StartError::NotReady`], with the end of its log.
    pub async fn ready(&self) -> Result<(), ControlError> {
        self.owned()?;
        let server = self.clone();
        Ok(background::run(async move { server.wait_ready().await }).await?)
    }

    /// Cuts it off from its clients and, in a cluster, from the other members: connections are reset, and new
    /// ones too.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotLinked`] if it was started without links.
    pub fn cut(&self) -> Result<(), ControlError> {
        self.linked()?.cut();
        Ok(())
    }

    /// Lets what is sent to it and from it vanish: connections stay open, new ones are accepted, and nothing
    /// comes through.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn black_hole(&self) -> Result<(), ControlError> {
        self.linked()?.black_hole();
        Ok(())
    }

    /// Delays what is sent to it and from it, each way by this much.
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn delay(&self, by: Duration) -> Result<(), ControlError> {
        self.linked()?.delay(by);
        Ok(())
    }

    /// Undoes [`cut`](Self::cut), [`black_hole`](Self::black_hole) and [`delay`](Self::delay).
    ///
    /// # Errors
    ///
    /// As [`cut`](Self::cut).
    pub fn mend(&self) -> Result<(), ControlError> {
        self.linked()?.open();
        Ok(())
    }

    /// Starts the process.
    pub(crate) fn begin(&self) -> Result<(), StartError> {
        let Some(own) = &self.inner.own else { return Ok(()) };
        let name = &self.inner.name;
        // Containers are removed a moment after they end, so each start has a name of its own.
        static STARTS: AtomicU64 = AtomicU64::new(0);
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        let boxed = format!("testkit-{}-{name}-{start}", std::process::id());
        let command = own.plan.launch.server(&boxed, &own.plan.folder, &own.plan.arguments);
        let shown = format!("{command:?}");
        let container = own.plan.launch.container().map(|container| (container.docker.clone(), boxed));
        let log = open_log(&own.plan.folder).map_err(StartError::prepare(name))?;
        let mut process = lock(&own.process);
        *lock(&own.begun) = Some(Instant::now());
        let started = Process::start(command, &log, container).map_err(|source| StartError::Spawn {
            server: name.clone(),
            command: shown,
            source,
        })?;
        if let Some(wires) = &own.wires {
            wires.belongs_to(started.pid());
        }
        *process = Some(started);
        Ok(())
    }

    /// Waits until it is ready, on the runtime of this crate.
    pub(crate) async fn wait_ready(&self) -> Result<(), StartError> {
        let Some(own) = &self.inner.own else { return Ok(()) };
        let server = self.inner.name.clone();
        let look = || async {
            // One that ended will not become ready: an inner error, so that the wait ends.
            let status = match lock(&own.process).as_mut().map(Process::ended) {
                None => return Err("it was not started".to_owned()),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(status)) => status,
            };
            match status {
                Some(status) => Ok(Err(status)),
                None => own.plan.probe.look().await.map(Ok),
            }
        };
        match until_ready(&server, own.plan.within, look).await {
            Ok(Ok(())) => {
                *lock(&own.ready_after) = lock(&own.begun).map(|begun| begun.elapsed());
                Ok(())
            }
            Ok(Err(status)) => Err(StartError::Exited { server, status, log: tail(&self.log()) }),
            Err(late) => {
                let log = tail(&self.log());
                Err(StartError::NotReady { server, within: late.within, last: late.last, log })
            }
        }
    }

    async fn stop(&self, signal: Signal) -> Result<(), ControlError> {
        let own = self.owned()?;
        let said = |source| ControlError::Signal { server: self.inner.name.clone(), source };
        {
            let mut process = lock(&own.process);
            let Some(process) = process.as_mut() else { return Ok(()) };
            process.signal(signal).map_err(said)?;
            // A paused process acts on a signal only once it goes on.
            if signal != Signal::KILL {
                process.signal(Signal::CONT).map_err(said)?;
            }
        }
        let server = self.clone();
        let gone = background::run(async move {
            let ended = || async { if server.is_running() { Err("it runs".to_owned()) } else { Ok(()) } };
            Ok(until_ready("its end", GRACE, ended).await.is_ok())
        });
        let gone = gone.await?;
        // What does not end by then is killed by the drop, which waits.
        drop(lock(&own.process).take());
        if !gone && signal == Signal::KILL {
            return Err(said(io::Error::from(io::ErrorKind::TimedOut)));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), ControlError> {
        let own = self.owned()?;
        let mut process = lock(&own.process);
        let name = self.inner.name.clone();
        let runs = match process.as_mut() {
            Some(process) => matches!(process.ended(), Ok(None)).then_some(process),
            None => None,
        };
        let process = runs.ok_or_else(|| ControlError::NotRunning { server: name.clone() })?;
        process.signal(signal).map_err(|source| ControlError::Signal { server: name, source })
    }

    fn owned(&self) -> Result<&Own, ControlError> {
        self.inner.own.as_ref().ok_or_else(|| ControlError::NotOurs { server: self.inner.name.clone() })
    }

    fn wires(&self) -> Option<&Wires> {
        self.inner.own.as_ref()?.wires.as_ref()
    }

    fn linked(&self) -> Result<&Wires, ControlError> {
        self.owned()?;
        self.wires().ok_or_else(|| ControlError::NotLinked { server: self.inner.name.clone() })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(folder) = lock(&self.folder).take_if(|_| kept()) {
            let kept = folder.keep();
            let _ = writeln!(io::stderr(), "kept: {}", kept.display());
        }
    }
}

/// A folder for one server, below the one that the watchdog removes.
pub(crate) fn folder_for(name: &str) -> Result<TempDir, StartError> {
    let made = watchdog::folder()
        .and_then(|folder| tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(folder));
    made.map_err(StartError::prepare(name))
}

pub(crate) fn open_log(folder: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(folder.join("log"))
}

pub(crate) fn read_log(folder: &Path) -> String {
    std::fs::read(folder.join("log"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The last lines of a log, indented.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().map(|line| format!("  {line}\n")).collect()
}

/// Whether folders are to stay, to be looked at.
fn kept() -> bool {
    std::env::var_os("GANTRY_TEST_KEEP").is_some_and(|value| !value.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
