//! When the process should end.

use tokio_util::sync::CancellationToken;

/// What asked the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// Ctrl-C (SIGINT).
    Interrupt,
    /// SIGTERM, as service managers and orchestrators send it.
    Terminate,
    /// The program itself.
    Requested,
}

/// The request to end, from a signal or from the program.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
}

impl Shutdown {
    /// Nothing has been requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the process to end.
    pub fn request(&self) {
        self.requested.cancel();
    }

    /// Waits for SIGINT, SIGTERM or [`Shutdown::request`], whichever comes first. Signals are listened to
    /// from the call on, and not only once the future is polled: what comes before that is not lost, and does
    /// not end the process.
    ///
    /// # Errors
    ///
    /// If the signal handlers cannot be installed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn wait(&self) -> std::io::Result<impl Future<Output = ShutdownReason> + Send + use<>> {
        let requested = self.requested.clone();
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            Ok(async move {
                tokio::select! {
                    _ = interrupt.recv() => ShutdownReason::Interrupt,
                    _ = terminate.recv() => ShutdownReason::Terminate,
                    () = requested.cancelled() => ShutdownReason::Requested,
                }
            })
        }
        #[cfg(windows)]
        {
            let mut interrupt = tokio::signal::windows::ctrl_c()?;
            Ok(async move {
                tokio::select! {
                    _ = interrupt.recv() => ShutdownReason::Interrupt,
                    () = requested.cancelled() => ShutdownReason::Requested,
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A signal reaches everything in the process that listens: one test after the other.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_signal_before_the_first_poll_is_not_lost_and_the_program_can_ask() {
        let asked = Shutdown::new().wait().unwrap();
        let me = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &me]).status().unwrap();
        assert!(sent.success());
        assert_eq!(asked.await, ShutdownReason::Terminate);

        let shutdown = Shutdown::new();
        shutdown.clone().request();
        assert_eq!(shutdown.wait().unwrap().await, ShutdownReason::Requested);
    }
}
