//! One process of a server: begun, signalled, waited for, and never left behind.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

use crate::watchdog::{self, Charge};

/// A process that was started here. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    charge: Charge,
    docker: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with its output in `log`, under the watchdog's eyes. `container` names the container that
    /// the command makes, and the `docker` to reach it by.
    pub(crate) fn start(
        mut command: Command,
        log: &File,
        container: Option<(PathBuf, String)>,
    ) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        // Before the start: without a watchdog there is no start.
        watchdog::folder()?;
        let child = command.process_group(0).spawn()?;
        let (docker, charge) = match container {
            Some((docker, name)) => (docker, Charge::Container(name)),
            None => (PathBuf::new(), Charge::Pid(child.id(), watchdog::start_of(child.id()))),
        };
        // From here on a drop ends it.
        let process = Self { child, charge, docker, ended: None };
        watchdog::watch(&process.charge)?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                watchdog::forget(&self.charge)?;
            }
        }
        Ok(self.ended)
    }

    /// Sends a signal; to a process that has ended, nothing.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        match &self.charge {
            // The id is this child's until it is waited for, which only `ended` does.
            Charge::Pid(id, _) => {
                let pid = i32::try_from(*id).ok().and_then(Pid::from_raw);
                let pid = pid.ok_or_else(|| io::Error::other("a process id out of range"))?;
                Ok(rustix::process::kill_process(pid, signal)?)
            }
            Charge::Container(name) => {
                let signal = signal.as_raw().to_string();
                let mut kill = Command::new(&self.docker);
                kill.args(["kill", "--signal", &signal, name]).stdin(Stdio::null()).stdout(Stdio::null());
                match kill.stderr(Stdio::null()).status()?.success() {
                    true => Ok(()),
                    false => Err(io::Error::other("docker kill failed")),
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A container ends by its name, and then the client that started it by itself: killing the client alone
        // would leave the container.
        if self.signal(Signal::KILL).is_err() {
            let _ = self.child.kill();
        }
        if self.ended.is_none() {
            let _ = self.child.wait();
            let _ = watchdog::forget(&self.charge);
        }
    }
}
