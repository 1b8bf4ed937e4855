//! Processes that answer HTTP: the real server, and the bare ones that it stands beside.
//!
//! Both run as children of this program and are driven over loopback by the same client, so that neither has
//! the client's threads in its own runtime.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness;

/// Names the program of the server; `cargo xtask bench` builds it and sets this.
const PROGRAM: &str = "GANTRY_BENCH_SERVER";

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(30);

/// A server in a process of its own, which ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the start of the process to the first 200 on `/health/ready`.
    pub(crate) ready_after: Duration,
    data: Option<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing in it is worth a drain, and an error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(data) = &self.data {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}

impl Server {
    /// Starts the release server on its embedded defaults and waits until it is ready.
    pub(crate) async fn gantry() -> anyhow::Result<Self> {
        let Some(program) = std::env::var_os(PROGRAM) else {
            bail!("{PROGRAM} names no program; `cargo xtask bench` builds the server and sets it")
        };
        let address = free_address()?;
        let data =
            std::env::temp_dir().join(format!("gantry-bench-{}-{}", std::process::id(), address.port()));
        std::fs::create_dir_all(&data).with_context(|| format!("create `{}`", data.display()))?;
        let mut command = Command::new(&program);
        command
            .current_dir(&data)
            .env("HTTP_HOST", address.ip().to_string())
            .env("HTTP_PORT", address.port().to_string())
            .env("GANTRY__DATA_DIR", &data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start `{}`", program.to_string_lossy()))?;
        let mut server = Self { child, address, ready_after: Duration::ZERO, data: Some(data) };
        server.wait_until_ready(started).await?;
        Ok(server)
    }

    /// Starts this program again as a server of this kind, which says on its output where it listens.
    pub(crate) fn of_this_program(kind: &str, argument: &str) -> anyhow::Result<Self> {
        let mut command = harness::this_program()?;
        command.args(["--serve", kind, argument]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a server of this program")?;
        let mut line = String::new();
        let output = child.stdout.take().context("read from a server of this program")?;
        let read = BufReader::new(output).read_line(&mut line);
        let address = Ipv4Addr::LOCALHOST.into();
        let address = SocketAddr::new(address, 0);
        let mut server = Self { child, address, ready_after: Duration::ZERO, data: None };
        read.context("read where a server of this program listens")?;
        server.address =
            line.trim().parse().with_context(|| format!("a server of this program listens on `{line}`"))?;
        Ok(server)
    }

    async fn wait_until_ready(&mut self, started: Instant) -> anyhow::Result<()> {
        loop {
            if let Ok(answer) = get(self.address, "/health/ready").await
                && answer.status == 200
            {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status} before it was ready");
            }
            ensure!(started.elapsed() < START_MAX, "the server was not ready within {START_MAX:?}");
            // Short beside the figure that is measured with it, long enough to leave the server its core.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// CPU time that the process has used.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        harness::cpu_seconds(self.child.id())
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<f64> {
        harness::resident_bytes(self.child.id())
    }
}

/// A port that nobody listens on at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// One `GET` on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    send(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

/// One `POST` of JSON on a connection of its own.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    send(address, &(head + body)).await
}

async fn send(address: SocketAddr, request: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without an end")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).context("an answer without a status")?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Answer { status: status.parse()?, headers, body: bytes.split_off(at + 4) })
}
