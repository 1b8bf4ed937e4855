//! A Redis Cluster: masters and a replica for each.

use std::sync::Arc;
use std::time::Duration;

use super::resp::{Credentials, Resp, Value};
use super::{READY, arguments, ask};
use crate::environment;
use crate::link::{Board, Wires};
use crate::port::Port;
use crate::probe::Probe;
use crate::provision::{self, Launch, Program};
use crate::server::{Plan, folder_for};
use crate::until::until_ready;
use crate::{ControlError, Server, StartError, background};

const SLOTS: usize = 16_384;

/// How long the nodes may take to agree.
const AGREE: Duration = Duration::from_secs(60);

/// A Redis Cluster. Node `i` and node `masters + i` begin as a master and its replica.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Server>,
}

impl RedisCluster {
    /// Starts six nodes, three masters with a replica each, which notice a dead node after 2 s.
    ///
    /// # Errors
    ///
    /// [`StartError::Unavailable`] where there is no Redis, or why it did not start.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Uses the cluster that `GANTRY_TEST_REDIS_CLUSTER_ADDRS` names, or starts one.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); and where the cluster that is named does not answer.
    pub async fn provide() -> Result<Self, StartError> {
        const VARIABLE: &str = "GANTRY_TEST_REDIS_CLUSTER_ADDRS";
        let addresses = environment::addresses(VARIABLE);
        if addresses.is_empty() {
            return Self::start().await;
        }
        for address in &addresses {
            let probe = Probe::Redis { address: address.clone(), credentials: Credentials::default() };
            environment::answers(VARIABLE, address, probe).await?;
        }
        let named = |(index, address): (usize, &String)| Server::foreign(&name(index), address);
        Ok(Self { nodes: addresses.iter().enumerate().map(named).collect() })
    }

    /// Starts one with settings.
    #[must_use]
    pub fn builder() -> RedisClusterBuilder {
        RedisClusterBuilder {
            masters: 3,
            node_timeout: Duration::from_secs(2),
            linked: false,
            arguments: Vec::new(),
        }
    }

    /// The addresses of all nodes, for clients.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address().to_owned()).collect()
    }

    /// The nodes, to be hurt.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Asks one node over a connection of this call's own; a redirection is an error that begins with `MOVED`.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], with what Redis or the connection said.
    pub async fn ask(&self, node: usize, words: &[&str]) -> Result<Value, ControlError> {
        let missing = || ControlError::Ask { server: name(node), what: "there is no such node".into() };
        ask(self.nodes.get(node).ok_or_else(missing)?, &Credentials::default(), words).await
    }

    /// The indices of the nodes that say they are masters. Nodes that do not answer are none.
    pub async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for index in 0..self.nodes.len() {
            let role = tokio::time::timeout(Duration::from_secs(1), self.ask(index, &["ROLE"])).await;
            if let Ok(Ok(Value::List(role))) = role
                && role.first().and_then(Value::text) == Some("master")
            {
                masters.push(index);
            }
        }
        masters
    }

    /// Starts what is down, and waits until all nodes agree that the cluster is whole: every slot served, and
    /// every replica in step.
    ///
    /// # Errors
    ///
    /// What a node said, or that the nodes did not agree within a minute.
    pub async fn heal(&self) -> Result<(), ControlError> {
        for node in &self.nodes {
            node.revive()?;
        }
        let nodes = self.nodes.clone();
        Ok(background::run(async move {
            for node in &nodes {
                node.wait_ready().await?;
            }
            let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
            agree(&addresses).await
        })
        .await?)
    }
}

/// Settings of a cluster that is to be started.
#[derive(Clone, Debug)]
pub struct RedisClusterBuilder {
    masters: usize,
    node_timeout: Duration,
    linked: bool,
    arguments: Vec<String>,
}

impl RedisClusterBuilder {
    /// So many masters, and as many replicas. At least three, or no majority can say that one is dead.
    #[must_use]
    pub fn masters(mut self, masters: usize) -> Self {
        self.masters = masters.max(3);
        self
    }

    /// A node that is silent for so long is taken for dead.
    #[must_use]
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = timeout;
        self
    }

    /// Puts links between each node and its clients, and between the nodes.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Adds arguments of `redis-server`.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Starts it and waits until all nodes agree that it is whole.
    ///
    /// # Errors
    ///
    /// As [`RedisCluster::start`].
    pub async fn start(self) -> Result<RedisCluster, StartError> {
        let found = provision::find(Program::RedisServer).await?;
        background::run(self.start_here(found.launch.clone())).await
    }

    async fn start_here(self, launch: Launch) -> Result<RedisCluster, StartError> {
        let board = Arc::new(Board::default());
        let mut nodes = Vec::new();
        // Where the others reach each node: host, port, port of the cluster's bus.
        let mut reach = Vec::new();
        for index in 0..self.masters * 2 {
            let name = name(index);
            let claim = || Port::claim().map_err(StartError::prepare(&name));
            let (port, bus) = (claim()?, claim()?);
            let mut arguments = arguments(port.number());
            arguments.extend(cluster_arguments(bus.number(), self.node_timeout));
            let wires = match self.linked {
                true => Some(Wires::to(&board, port.number(), &[bus.number()]).await?),
                false => None,
            };
            let announced = match &wires {
                Some(wires) => (wires.clients().address().port(), wires.peer_port(0)),
                None => (port.number(), bus.number()),
            };
            for (option, port) in
                [("--cluster-announce-port", announced.0), ("--cluster-announce-bus-port", announced.1)]
            {
                arguments.extend([option.to_owned(), port.to_string()]);
            }
            arguments.extend(self.arguments.iter().cloned());
            let folder = folder_for(&name)?;
            let probe = Probe::Redis { address: port.address(), credentials: Credentials::default() };
            let at = folder.path().to_owned();
            let plan = Plan {
                launch: launch.clone(),
                arguments,
                folder: at,
                probe,
                within: READY,
                ports: vec![port, bus],
            };
            nodes.push(Server::own(&name, format!("127.0.0.1:{}", announced.0), plan, folder, wires));
            reach.push(announced);
        }
        for node in &nodes {
            node.begin()?;
        }
        for node in &nodes {
            node.wait_ready().await?;
        }
        form(&reach, self.masters).await?;
        Ok(RedisCluster { nodes })
    }
}

fn name(index: usize) -> String {
    format!("redis-{index}")
}

/// What a node of a cluster is started with beside what every Redis is.
pub(crate) fn cluster_arguments(bus: u16, timeout: Duration) -> Vec<String> {
    let (bus, timeout) = (bus.to_string(), timeout.as_millis().to_string());
    let words = [
        ["--cluster-enabled", "yes"],
        ["--cluster-config-file", "nodes.conf"],
        ["--cluster-node-timeout", &timeout],
        ["--cluster-announce-ip", "127.0.0.1"],
        ["--cluster-port", &bus],
    ];
    words.iter().flatten().map(|word| (*word).to_owned()).collect()
}

/// Makes a cluster of nodes that know nothing yet: what `redis-cli --cluster create` does, in less time.
pub(crate) async fn form(reach: &[(u16, u16)], masters: usize) -> Result<(), StartError> {
    let said = |what: String| StartError::setup("redis cluster", what);
    let addresses: Vec<String> = reach.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
    let mut nodes = Vec::new();
    for address in &addresses {
        nodes.push(Resp::connect(address, &Credentials::default()).await.map_err(said)?);
    }
    for (index, node) in nodes.iter_mut().enumerate() {
        // Else two masters could settle who is right by chance.
        let epoch = (index + 1).to_string();
        node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await.map_err(said)?;
        if index < masters {
            let (from, to) = (SLOTS * index / masters, SLOTS * (index + 1) / masters - 1);
            node.call(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])
                .await
                .map_err(said)?;
        }
    }
    // Only now: who knows others may not choose its epoch any more.
    let first = &mut nodes[0];
    for (port, bus) in &reach[1..] {
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()];
        first.call(&meet).await.map_err(said)?;
    }
    let mut ids = Vec::new();
    for node in &mut nodes {
        ids.push(node.call(&["CLUSTER", "MYID"]).await.map_err(said)?.to_string());
    }
    for index in masters..nodes.len() {
        let address = &addresses[index];
        let id = &ids[index - masters];
        let replicate = || async {
            let mut node = Resp::connect(address, &Credentials::default()).await?;
            node.call(&["CLUSTER", "REPLICATE", id]).await
        };
        // Refused until the node has met its master.
        until_ready("a replica to know its master", AGREE, replicate)
            .await
            .map_err(|late| said(late.to_string()))?;
    }
    agree(&addresses).await
}

/// Waits until every node says that the cluster is whole.
pub(crate) async fn agree(addresses: &[String]) -> Result<(), StartError> {
    for address in addresses {
        let whole = until_ready("a cluster that is whole", AGREE, || is_whole(address, addresses.len()));
        whole.await.map_err(|late| StartError::setup(&format!("redis cluster at {address}"), late))?;
    }
    Ok(())
}

async fn is_whole(address: &str, count: usize) -> Result<(), String> {
    let mut node = Resp::connect(address, &Credentials::default()).await?;
    let info = node.call(&["CLUSTER", "INFO"]).await?.to_string();
    let known = format!("cluster_known_nodes:{count}\r");
    for expected in ["cluster_state:ok", "cluster_slots_ok:16384", &known] {
        if !info.contains(expected) {
            return Err(format!("no {} in {info:?}", expected.trim_end()));
        }
    }
    let nodes = node.call(&["CLUSTER", "NODES"]).await?.to_string();
    let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
    if nodes.contains("fail") || nodes.contains("handshake") || replicas * 2 != count {
        return Err(format!("nodes are {nodes}"));
    }
    let replication = node.call(&["INFO", "replication"]).await?.to_string();
    if replication.contains("role:slave") && !replication.contains("master_link_status:up") {
        return Err("a replica is not in step yet".into());
    }
    Ok(())
}
