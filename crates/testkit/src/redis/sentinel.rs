//! Redis under sentinels: one master, replicas, and three sentinels that replace a dead master.

use std::time::Duration;

use super::resp::{Credentials, Resp, Value};
use super::{READY, arguments};
use crate::port::Port;
use crate::probe::Probe;
use crate::provision::{self, Launch, Program};
use crate::server::{Plan, folder_for};
use crate::until::until_ready;
use crate::{Server, StartError, background};

const SENTINELS: usize = 3;
const DATA_NODES: usize = 3;
const MASTER: &str = "main";

/// One master with two replicas, under three sentinels which notice a dead master after a second.
#[derive(Debug)]
pub struct RedisSentinel {
    data: Vec<Server>,
    sentinels: Vec<Server>,
}

impl RedisSentinel {
    /// Starts them and waits until the sentinels know each other and all replicas.
    ///
    /// # Errors
    ///
    /// [`StartError::Unavailable`] where there is no Redis, or why it did not start.
    pub async fn start() -> Result<Self, StartError> {
        let found = provision::find(Program::RedisServer).await?;
        background::run(Self::start_here(found.launch.clone())).await
    }

    /// The name that the sentinels know the master by.
    #[must_use]
    pub fn master_name(&self) -> &'static str {
        MASTER
    }

    /// The addresses of the sentinels.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(|server| server.address().to_owned()).collect()
    }

    /// The sentinels, to be hurt.
    #[must_use]
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The servers that hold data, to be hurt; the first begins as the master.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.data
    }

    /// The address that the first sentinel which answers gives for the master.
    pub async fn master(&self) -> Option<String> {
        for sentinel in &self.sentinels {
            let asked = async {
                let mut sentinel = Resp::connect(sentinel.address(), &Credentials::default()).await.ok()?;
                sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await.ok()
            };
            if let Ok(Some(Value::List(parts))) = tokio::time::timeout(Duration::from_secs(1), asked).await {
                return Some(parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(":"));
            }
        }
        None
    }

    async fn start_here(launch: Launch) -> Result<Self, StartError> {
        let claim = || Port::claim().map_err(StartError::prepare("redis sentinel"));
        let master = claim()?;
        let master_port = master.number();
        let mut ports = vec![master];
        for _ in 1..DATA_NODES {
            ports.push(claim()?);
        }
        let start = |name: &str, port: Port, arguments: Vec<String>, folder: tempfile::TempDir| {
            let (address, at) = (port.address(), folder.path().to_owned());
            let probe = Probe::Redis { address: address.clone(), credentials: Credentials::default() };
            let plan = Plan {
                launch: launch.clone(),
                arguments,
                folder: at,
                probe,
                within: READY,
                ports: vec![port],
            };
            let server = Server::own(name, address, plan, folder, None);
            server.begin().map(|()| server)
        };
        let (mut data, mut sentinels) = (Vec::new(), Vec::new());
        for (index, port) in ports.into_iter().enumerate() {
            let mut arguments = arguments(port.number());
            if index > 0 {
                arguments.extend(["--replicaof".to_owned(), format!("127.0.0.1 {master_port}")]);
            }
            let name = format!("redis-data-{index}");
            let folder = folder_for(&name)?;
            data.push(start(&name, port, arguments, folder)?);
        }
        for server in &data {
            server.wait_ready().await?;
        }
        for index in 0..SENTINELS {
            let (name, port) = (format!("redis-sentinel-{index}"), claim()?);
            let folder = folder_for(&name)?;
            // A sentinel keeps what it learns in its configuration.
            let file = folder.path().join("sentinel.conf");
            std::fs::write(&file, configuration(port.number(), master_port))
                .map_err(StartError::prepare(&name))?;
            let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
            sentinels.push(start(&name, port, arguments, folder)?);
        }
        for sentinel in &sentinels {
            sentinel.wait_ready().await?;
            let knows = || knows_all(sentinel.address());
            let known = until_ready("a sentinel that knows all", READY, knows).await;
            known.map_err(|late| StartError::setup(sentinel.name(), late))?;
        }
        Ok(Self { data, sentinels })
    }
}

fn configuration(port: u16, master: u16) -> String {
    format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
    )
}

async fn knows_all(address: &str) -> Result<(), String> {
    let mut sentinel = Resp::connect(address, &Credentials::default()).await?;
    let Value::List(fields) = sentinel.call(&["SENTINEL", "MASTER", MASTER]).await? else {
        return Err("no list of fields".into());
    };
    let field = |name: &str| {
        let at = fields.iter().position(|field| field.text() == Some(name))?;
        fields.get(at + 1)?.text()?.parse::<usize>().ok()
    };
    let (replicas, others) = (field("num-slaves"), field("num-other-sentinels"));
    if replicas == Some(DATA_NODES - 1) && others == Some(SENTINELS - 1) {
        Ok(())
    } else {
        Err(format!("it knows {replicas:?} replicas and {others:?} other sentinels"))
    }
}
