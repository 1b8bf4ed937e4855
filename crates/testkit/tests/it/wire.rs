//! Looks at servers with nothing but a socket, so that what is tested does not vouch for itself.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a healthy server may take to answer on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A time after which one that says nothing counts as silent.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Sends bytes and gives what comes back first.
pub(crate) async fn exchange(address: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    say(&mut stream, request).await
}

pub(crate) async fn say(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    hear(stream).await
}

pub(crate) async fn hear(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 64 * 1024];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

/// Whether nothing comes back for a while, though the connection is made.
pub(crate) async fn is_silent(address: &str, request: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    tokio::time::timeout(SILENCE, say(&mut stream, request)).await.is_err()
}
