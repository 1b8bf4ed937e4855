//! Looking whether a server is ready, by its own protocol.

use std::time::Duration;

use tokio::time::timeout;

use crate::etcd::http;
use crate::kafka::wire;
use crate::redis::resp::{Credentials, Resp, Value};

/// One look takes this long at most: a server that accepts and says nothing is not ready.
const LOOK: Duration = Duration::from_secs(2);

/// What is asked of a server to see that it is ready; the addresses are its own, past any link.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    /// `PING`, which is refused while data are loaded.
    Redis { address: String, credentials: Credentials },
    /// `GET /health`, which asks the cluster for agreement.
    Etcd { address: String },
    /// A broker that answers, knows of so many brokers, itself among them, and of a controller.
    Kafka { address: String, brokers: usize },
}

impl Probe {
    /// The server's own address.
    pub(crate) fn address(&self) -> &str {
        match self {
            Self::Redis { address, .. } | Self::Etcd { address } | Self::Kafka { address, .. } => address,
        }
    }

    /// Looks once, and says why not yet.
    pub(crate) async fn look(&self) -> Result<(), String> {
        match timeout(LOOK, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer".into()),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        match self {
            Self::Redis { address, credentials } => {
                match Resp::connect(address, credentials).await?.call(&["PING"]).await? {
                    Value::Text(text) if text == "PONG" => Ok(()),
                    other => Err(format!("answered PING with {other}")),
                }
            }
            Self::Etcd { address } => {
                let body = http::get(address, "/health").await?;
                if body.contains("\"true\"") { Ok(()) } else { Err(format!("health is {}", body.trim())) }
            }
            Self::Kafka { address, brokers } => {
                let known = wire::metadata(address, &[]).await?;
                let count = known.brokers.len();
                if count >= *brokers {
                    Ok(())
                } else {
                    Err(format!("{count} of {brokers} brokers are there"))
                }
            }
        }
    }
}
