//! Plugins' code on the threads of the control plane, a bounded share of them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use runtime::TraceContext;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Instrument;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs plugins' code where its connection is served, which costs no change of threads, as long as at
/// least one thread of the control plane is left; beyond that on the runtime of plugins.
///
/// Code that blocks its thread so takes all but one thread of the control plane at the most, and the
/// management API goes on answering.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// How many threads of the control plane may be in plugins' code at once.
    bound: usize,
    taken: AtomicUsize,
    /// The runtime of plugins.
    plugins: Handle,
}

impl Lanes {
    /// Lanes on the control plane's threads, of which there are so many.
    pub(crate) fn new(control_threads: usize, plugins: Handle) -> Self {
        Self { bound: control_threads.saturating_sub(1), taken: AtomicUsize::new(0), plugins }
    }

    /// Runs the work to its end, wherever there is a thread for it.
    ///
    /// # Panics
    ///
    /// If the work does.
    pub(crate) async fn run<T: Send + 'static>(&self, work: Work<T>) -> T {
        let mut at = At::Here(work);
        poll_fn(|cx| {
            loop {
                match &mut at {
                    At::Here(work) => {
                        let Some(_lane) = self.enter() else {
                            let At::Here(work) = std::mem::replace(&mut at, At::Moving) else {
                                return Poll::Pending;
                            };
                            // What it belongs to does not go to another thread by itself.
                            let trace = TraceContext::current();
                            let work = async move {
                                match trace {
                                    Some(trace) => trace.scope(work).await,
                                    None => work.await,
                                }
                            };
                            at = At::There(AbortOnDrop(self.plugins.spawn(work.in_current_span())));
                            continue;
                        };
                        return work.as_mut().poll(cx);
                    }
                    At::There(task) => {
                        return Pin::new(&mut task.0).poll(cx).map(|ended| match ended {
                            Ok(value) => value,
                            Err(error) => match error.try_into_panic() {
                                Ok(panic) => std::panic::resume_unwind(panic),
                                // The runtime is gone, and with it the host.
                                Err(_) => {
                                    std::panic::resume_unwind(Box::new("the plugins' runtime has ended"))
                                }
                            },
                        });
                    }
                    At::Moving => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn enter(&self) -> Option<Lane<'_>> {
        // Counted first and checked after, so that no two take the last one.
        let lane = Lane(&self.taken);
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.bound { Some(lane) } else { None }
    }
}

enum At<T> {
    Here(Work<T>),
    Moving,
    There(AbortOnDrop<T>),
}

struct Lane<'a>(&'a AtomicUsize);

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A client that leaves ends its request, wherever that runs.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime(threads: usize) -> Runtime {
        Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
    }

    #[test]
    fn code_that_blocks_leaves_a_thread_to_others() {
        let (control, plugins) = (runtime(3), runtime(2));
        let lanes = Arc::new(Lanes::new(3, plugins.handle().clone()));
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let blocked: Vec<_> = (0..8)
            .map(|_| {
                let (lanes, gate) = (lanes.clone(), gate.clone());
                control.spawn(async move {
                    lanes
                        .run(Box::pin(async move {
                            let _ = gate.lock().unwrap().recv();
                        }))
                        .await;
                })
            })
            .collect();
        for _ in 0..50 {
            let (answered, answer) = mpsc::sync_channel(1);
            control.spawn(async move { answered.send(()).unwrap() });
            answer.recv_timeout(Duration::from_secs(5)).expect("a thread is left");
        }
        drop(release);
        control.block_on(async {
            for task in blocked {
                task.await.unwrap();
            }
        });
        assert_eq!(lanes.taken.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_comes_through_from_either_place() {
        for bound in [1, 5] {
            let lanes = Arc::new(Lanes::new(bound, Handle::current()));
            let inner = lanes.clone();
            let task = Handle::current()
                .spawn(async move { inner.run::<()>(Box::pin(async { panic!("oops") })).await });
            let panic = task.await.unwrap_err().into_panic();
            assert_eq!(runtime::panic_message(&*panic), "oops");
            assert_eq!(lanes.taken.load(Ordering::SeqCst), 0);
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_request_also_elsewhere() {
        let lanes = Lanes::new(1, Handle::current());
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let work = lanes.run::<()>(Box::pin(async move {
            let _alive = alive;
            std::future::pending().await
        }));
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(5), gone).await.expect("ended").is_err());
    }
}
