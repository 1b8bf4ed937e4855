//! As much of HTTP as etcd's gateway needs.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The body of an answer to a `GET`.
pub(crate) async fn get(address: &str, path: &str) -> Result<String, String> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

/// The body of an answer to a `POST` of JSON.
pub(crate) async fn post(address: &str, path: &str, json: &str) -> Result<String, String> {
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        json.len()
    );
    exchange(address, &(head + json)).await
}

/// HTTP/1.0, so that the answer ends with the connection and comes in one piece.
async fn exchange(address: &str, request: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("send: {error}"))?;
    let mut answer = Vec::new();
    stream
        .take(16 * 1024 * 1024)
        .read_to_end(&mut answer)
        .await
        .map_err(|error| format!("receive: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP in the answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') { Ok(body.to_owned()) } else { Err(format!("HTTP {status}: {}", body.trim())) }
}

/// The value of a field whose value is a text or a number, wherever in a JSON text it stands first.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let rest = rest.trim_start();
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => rest.split([',', '}']).next().map(str::trim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_json() {
        let json = r#"{"header":{"cluster_id":"12","member_id":"34"},"dbSize": 20480,"leader":"56"}"#;
        let check = |name, value| assert_eq!(field(json, name), value);
        check("member_id", Some("34"));
        check("leader", Some("56"));
        check("dbSize", Some("20480"));
        check("learner", None);
    }
}
