//! As much of Redis' protocol as the setup of a cluster needs, and a test that looks from outside.

use std::fmt;
use std::pin::Pin;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longer answers are refused.
const LONGEST: usize = 16 * 1024 * 1024;

/// What Redis answered; an error is an [`Err`] of the call instead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// A text, status or value.
    Text(String),
    /// Several answers.
    List(Vec<Value>),
}

impl Value {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => formatter.write_str("nil"),
            Self::Number(number) => number.fmt(formatter),
            Self::Text(text) => formatter.write_str(text),
            Self::List(values) => formatter.debug_list().entries(values).finish(),
        }
    }
}

/// How to log in, if at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) password: Option<String>,
}

/// One connection.
pub(crate) struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    pub(crate) async fn connect(address: &str, credentials: &Credentials) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let mut connection = Self { stream: BufReader::new(stream) };
        if let Some(password) = &credentials.password {
            connection.call(&["AUTH", password]).await?;
        }
        Ok(connection)
    }

    /// Sends one command and waits for its answer.
    pub(crate) async fn call(&mut self, words: &[&str]) -> Result<Value, String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        let sent = self.stream.get_mut().write_all(request.as_bytes()).await;
        sent.map_err(|error| format!("send: {error}"))?;
        self.value().await
    }

    fn value(&mut self) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send + '_>> {
        Box::pin(async move {
            let line = self.line().await?;
            let (kind, rest) = line.split_at_checked(1).ok_or("an empty line")?;
            let number = || rest.parse::<i64>().map_err(|_| format!("a bad line `{line}`"));
            match kind {
                "+" => Ok(Value::Text(rest.to_owned())),
                "-" => Err(rest.to_owned()),
                ":" => Ok(Value::Number(number()?)),
                "$" => match usize::try_from(number()?) {
                    Err(_) => Ok(Value::Nil),
                    Ok(length) if length > LONGEST => Err(format!("an answer of {length} bytes")),
                    Ok(length) => {
                        let mut bytes = vec![0; length + 2];
                        self.stream
                            .read_exact(&mut bytes)
                            .await
                            .map_err(|error| format!("receive: {error}"))?;
                        bytes.truncate(length);
                        Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
                    }
                },
                "*" => {
                    let mut values = Vec::new();
                    for _ in 0..number()? {
                        values.push(self.value().await?);
                    }
                    Ok(Value::List(values))
                }
                _ => Err(format!("a bad line `{line}`")),
            }
        })
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).await.map_err(|error| format!("receive: {error}"))?;
        if length == 0 { Err("the connection was closed".into()) } else { Ok(line.trim_end().to_owned()) }
    }
}
