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

    /// Waits for SIGINT, SIGTERM or [`Shutdown::request`], whichever comes first.
    ///
    /// # Errors
    ///
    /// If the signal handlers cannot be installed.
    pub async fn wait(&self) -> std::io::Result<ShutdownReason> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            Ok(tokio::select! {
                _ = interrupt.recv() => ShutdownReason::Interrupt,
                _ = terminate.recv() => ShutdownReason::Terminate,
                () = self.requested.cancelled() => ShutdownReason::Requested,
            })
        }
        #[cfg(not(unix))]
        tokio::select! {
            signal = tokio::signal::ctrl_c() => signal.map(|()| ShutdownReason::Interrupt),
            () = self.requested.cancelled() => Ok(ShutdownReason::Requested),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_program_can_ask() {
        let shutdown = Shutdown::new();
        shutdown.clone().request();
        assert_eq!(shutdown.wait().await.unwrap(), ShutdownReason::Requested);
    }
}
