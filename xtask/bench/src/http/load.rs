//! The client: keep-alive connections, each with one request under way, and nothing more.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use crate::harness::Sample;
use crate::server::Server;

/// Connections, each of which waits for its answer before it asks again.
pub(super) const CONNECTIONS: usize = 32;

/// Answers are counted from here on, when all connections have been used.
const WARM_UP: Duration = Duration::from_millis(300);

const LENGTH: &[u8] = b"content-length:";

/// Sends `GET` of these paths in turn over all connections for `span` and returns the answers per second; anything
/// but a 200 is an error. Runs on the thread that calls it. The client takes its share of the machine from either server
/// alike, which brings their ratio closer to one; what a second of the server's own CPU time gave is therefore
/// shown beside it.
pub(super) fn answers_per_second(
    server: &Server,
    paths: &[String],
    span: Duration,
) -> anyhow::Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let request = |path: &String| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
        let requests: Rc<[Vec<u8>]> = paths.iter().map(request).collect();
        let turn = Rc::new(Cell::new(0_usize));
        let (answers, counting) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(false)));
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(server.address).await?;
            let (requests, turn) = (Rc::clone(&requests), Rc::clone(&turn));
            let (answers, counting) = (Rc::clone(&answers), Rc::clone(&counting));
            connections.spawn_local(async move {
                loop {
                    let at = turn.replace((turn.get() + 1) % requests.len());
                    connection.ask(&requests[at]).await?;
                    if counting.get() {
                        answers.set(answers.get() + 1);
                    }
                }
            });
        }
        until_failure(&mut connections, WARM_UP).await?;
        counting.set(true);
        let (started, busy) = (Instant::now(), server.cpu_seconds()?);
        until_failure(&mut connections, span).await?;
        let (passed, busy) = (started.elapsed().as_secs_f64(), server.cpu_seconds()? - busy);
        let answers = answers.get() as f64;
        Ok(Sample::from(answers / passed).detail("per CPU s", answers / busy))
    })
}

/// Lets the connections work for `span`. They ask for ever: one that ends has failed.
async fn until_failure(
    connections: &mut JoinSet<anyhow::Result<Infallible>>,
    span: Duration,
) -> anyhow::Result<()> {
    match timeout(span, connections.join_next()).await {
        Err(_) => Ok(()),
        Ok(Some(Ok(Err(error)))) => Err(error),
        Ok(_) => bail!("a connection ended"),
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and reads its answer to the end.
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed a connection");
            if let Some(size) = size_of_answer(&self.buffer)?
                && self.buffer.len() >= size
            {
                return Ok(());
            }
        }
    }
}

/// The size of the answer that `bytes` begin with, once its head is there.
fn size_of_answer(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    ensure!(bytes.starts_with(b"HTTP/1.1 200"), "answered {}", String::from_utf8_lossy(&bytes[..head]));
    let mut lines = bytes[..head].split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        if name.eq_ignore_ascii_case(LENGTH) {
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        } else {
            None
        }
    });
    let length: usize = length.context("an answer without a length")?;
    Ok(Some(head + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let size = |text: &str| size_of_answer(text.as_bytes());
        assert_eq!(size("HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(size("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nab").unwrap(), Some(46));
        assert!(size("HTTP/1.1 200 OK\r\nx: y\r\n\r\n").is_err());
        assert!(size("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
