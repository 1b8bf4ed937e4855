//! As much of Kafka's protocol as it takes to see whether a broker is ready, and who leads a partition.
//!
//! Formats: <https://kafka.apache.org/protocol>, Metadata in version 7, the last but one without tagged fields.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const METADATA: u16 = 3;
const VERSION: u16 = 7;
const LONGEST: u32 = 16 * 1024 * 1024;

/// What a broker knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Ids and addresses.
    pub(crate) brokers: Vec<(i32, String)>,
    pub(crate) partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) index: i32,
    pub(crate) leader: i32,
    pub(crate) in_sync: Vec<i32>,
}

/// Asks a broker for what it knows of these topics, creating none.
pub(crate) async fn metadata(address: &str, topics: &[&str]) -> Result<Metadata, String> {
    let mut body = Vec::new();
    body.extend(u32::try_from(topics.len()).unwrap_or_default().to_be_bytes());
    topics.iter().for_each(|topic| put_text(&mut body, topic));
    body.push(0);
    let answer = exchange(address, METADATA, VERSION, &body).await?;
    parse(&answer).ok_or_else(|| "an answer that is no metadata".into())
}

/// Sends one request and gives the answer after its correlation id.
async fn exchange(address: &str, kind: u16, version: u16, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let mut request = Vec::new();
    request.extend(kind.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(7u32.to_be_bytes());
    put_text(&mut request, "testkit");
    request.extend(body);
    let length = u32::try_from(request.len()).unwrap_or_default().to_be_bytes();
    let whole = [&length, request.as_slice()].concat();
    stream.write_all(&whole).await.map_err(|error| format!("send: {error}"))?;
    let said = |error: std::io::Error| format!("receive: {error}");
    let length = stream.read_u32().await.map_err(said)?;
    if !(4..=LONGEST).contains(&length) {
        return Err(format!("an answer of {length} bytes"));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.map_err(said)?;
    Ok(answer.split_off(4))
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    to.extend(text.as_bytes());
}

fn parse(answer: &[u8]) -> Option<Metadata> {
    let mut reader = Reader(answer);
    reader.i32()?; // throttled for
    let mut known = Metadata::default();
    for _ in 0..reader.i32()? {
        let id = reader.i32()?;
        let (host, port) = (reader.text()?, reader.i32()?);
        reader.text()?; // rack
        known.brokers.push((id, format!("{host}:{port}")));
    }
    reader.text()?; // cluster id
    reader.i32()?; // controller, which in KRaft is any broker
    for _ in 0..reader.i32()? {
        reader.take::<2>()?; // error
        let topic = reader.text()?;
        reader.take::<1>()?; // internal
        for _ in 0..reader.i32()? {
            reader.take::<2>()?; // error
            let (index, leader) = (reader.i32()?, reader.i32()?);
            reader.i32()?; // epoch of the leader
            reader.list()?; // replicas
            let in_sync = reader.list()?;
            reader.list()?; // replicas that are offline
            known.partitions.push(Partition { topic: topic.clone(), index, leader, in_sync });
        }
    }
    Some(known)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    /// A text, or nothing for one that is null.
    fn text(&mut self) -> Option<String> {
        let length = i16::from_be_bytes(self.take()?);
        let (text, rest) = self.0.split_at_checked(usize::try_from(length).unwrap_or(0))?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn list(&mut self) -> Option<Vec<i32>> {
        let length = self.i32()?;
        (0..length).map(|_| self.i32()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_parsed_and_half_of_them_are_refused() {
        let mut bytes = Vec::new();
        for number in [0, 1, 3] {
            bytes.extend(i32::to_be_bytes(number));
        }
        put_text(&mut bytes, "127.0.0.1");
        bytes.extend(i32::to_be_bytes(9092));
        bytes.extend([0xff, 0xff]);
        put_text(&mut bytes, "cluster");
        for number in [3, 1] {
            bytes.extend(i32::to_be_bytes(number));
        }
        bytes.extend([0, 0]);
        put_text(&mut bytes, "orders");
        bytes.extend([0]);
        bytes.extend(i32::to_be_bytes(1));
        bytes.extend([0, 0]);
        for number in [0, 3, 5, 2, 3, 4, 1, 3, 0] {
            bytes.extend(i32::to_be_bytes(number));
        }
        let partition = Partition { topic: "orders".into(), index: 0, leader: 3, in_sync: vec![3] };
        let known = Metadata { brokers: vec![(3, "127.0.0.1:9092".into())], partitions: vec![partition] };
        assert_eq!(parse(&bytes), Some(known));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), None);
        }
    }
}
