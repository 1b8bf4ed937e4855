//! Apache Kafka in KRaft mode: each node is broker and controller.

pub(crate) mod properties;
mod tool;
pub(crate) mod wire;

use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use properties::Node;
pub use tool::KafkaTool;

use crate::environment;
use crate::link::{Board, Wires};
use crate::port::Port;
use crate::probe::Probe;
use crate::provision::{self, Found, Launch, Program};
use crate::server::{Plan, folder_for};
use crate::{ControlError, Server, StartError, background};

/// How long a node may take to be ready: a JVM, on a machine with other things to do.
pub(crate) const READY: Duration = Duration::from_secs(90);

/// What a JVM is given: enough for tests, and a start that does not wait for the best code.
pub(crate) const JVM: &[&str] = &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// The file of a node's properties, in its folder.
pub(crate) const PROPERTIES: &str = "server.properties";

/// A Kafka of one node or several.
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Server>,
    listeners: Vec<(String, Vec<String>)>,
}

impl Kafka {
    /// Starts a single node.
    ///
    /// # Errors
    ///
    /// [`StartError::Unavailable`] where there is no Kafka or no Java, or why it did not start.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Starts three nodes, so that partitions have leaders that change: three replicas, two of which must
    /// have a record.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn cluster() -> Result<Self, StartError> {
        Self::builder().nodes(3).start().await
    }

    /// Uses what `GANTRY_TEST_KAFKA_BROKERS` names, or starts a single node. For tests that hurt nothing and
    /// choose their own topics.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); and where a broker that is named does not answer.
    pub async fn provide() -> Result<Self, StartError> {
        const VARIABLE: &str = "GANTRY_TEST_KAFKA_BROKERS";
        let addresses = environment::addresses(VARIABLE);
        if addresses.is_empty() {
            return Self::start().await;
        }
        for address in &addresses {
            let probe = Probe::Kafka { address: address.clone(), brokers: 1 };
            environment::answers(VARIABLE, address, probe).await?;
        }
        let named = |(index, address): (usize, &String)| Server::foreign(&name(index + 1), address);
        Ok(Self { nodes: addresses.iter().enumerate().map(named).collect(), listeners: Vec::new() })
    }

    /// Starts nodes with settings.
    #[must_use]
    pub fn builder() -> KafkaBuilder {
        KafkaBuilder {
            nodes: 1,
            linked: false,
            heap_mb: 512,
            properties: Vec::new(),
            listeners: Vec::new(),
            jvm: Vec::new(),
        }
    }

    /// Host and port of each node, for clients.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address().to_owned()).collect()
    }

    /// The same, with commas between.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.addresses().join(",")
    }

    /// Host and port of each node for a listener that [`KafkaBuilder::listener`] added.
    #[must_use]
    pub fn listener(&self, name: &str) -> &[String] {
        self.listeners.iter().find(|(known, _)| known == name).map_or(&[], |(_, addresses)| addresses)
    }

    /// The nodes, to be hurt. Node `i` has the id `i + 1`.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The index of the node that leads a partition, as the first node says that answers and knows.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], if none does.
    pub async fn leader(&self, topic: &str, partition: u32) -> Result<usize, ControlError> {
        // Ids begin with 1; without a leader it is -1.
        self.partition(topic, partition, |found| usize::try_from(found.leader - 1).ok()).await
    }

    /// How many replicas of a partition are in step, as the first node says that answers and knows.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], if none does.
    pub async fn in_sync(&self, topic: &str, partition: u32) -> Result<usize, ControlError> {
        self.partition(topic, partition, |found| Some(found.in_sync.len())).await
    }

    async fn partition(
        &self,
        topic: &str,
        partition: u32,
        look: impl Fn(&wire::Partition) -> Option<usize>,
    ) -> Result<usize, ControlError> {
        let mut said = Vec::new();
        for node in &self.nodes {
            let topics = [topic];
            let asked = wire::metadata(node.address(), &topics);
            let reason = match tokio::time::timeout(Duration::from_secs(2), asked).await {
                Ok(Ok(known)) => {
                    let found =
                        known.partitions.iter().find(|found| u32::try_from(found.index) == Ok(partition));
                    match found.and_then(&look) {
                        Some(answer) => return Ok(answer),
                        None => format!("it knows of {:?}", known.partitions),
                    }
                }
                Ok(Err(error)) => error,
                Err(_) => "no answer".into(),
            };
            said.push(format!("{}: {reason}", node.name()));
        }
        Err(ControlError::Ask { server: "kafka".into(), what: said.join("; ") })
    }

    /// Runs one of Kafka's own tools against these nodes and gives what it printed, without its log.
    /// `--bootstrap-server` is added.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], with what the tool printed, if it fails or takes longer than a minute.
    pub async fn tool(&self, tool: KafkaTool, arguments: &[&str]) -> Result<String, ControlError> {
        let found = provision::find(Program::Kafka).await?;
        let bootstrap = self.bootstrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let ran = background::blocking(move || Ok(tool.run(&found.launch, &bootstrap, &arguments))).await?;
        ran.map_err(|what| ControlError::Ask { server: "kafka".into(), what })
    }
}

/// Settings of nodes that are to be started.
#[derive(Clone, Debug)]
pub struct KafkaBuilder {
    nodes: usize,
    linked: bool,
    heap_mb: u32,
    properties: Vec<(String, String)>,
    listeners: Vec<(String, String)>,
    jvm: Vec<String>,
}

impl KafkaBuilder {
    /// So many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// Puts links between each node and its clients, and between the nodes.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// The heap of each node, in MiB; 512 if not set.
    #[must_use]
    pub fn heap_mb(mut self, heap: u32) -> Self {
        self.heap_mb = heap;
        self
    }

    /// Sets a property of all nodes, such as `message.max.bytes`, in place of what this crate sets.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Adds a listener for clients beside the plain one, with a port of its own, such as `("SASL",
    /// "SASL_PLAINTEXT")`; what it needs beyond that is set with [`property`](Self::property). The link, if
    /// there is one, does not cover it.
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, protocol: impl Into<String>) -> Self {
        self.listeners.push((name.into(), protocol.into()));
        self
    }

    /// Sets an option of the JVM, after and so in place of those of this crate: a benchmark wants
    /// `-XX:TieredStopAtLevel=4`, the best code, and waits longer for it.
    #[must_use]
    pub fn jvm(mut self, option: impl Into<String>) -> Self {
        self.jvm.push(option.into());
        self
    }

    /// Starts them and waits until each knows all the others.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub async fn start(self) -> Result<Kafka, StartError> {
        let found = provision::find(Program::Kafka).await?;
        background::run(self.start_here(found)).await
    }

    async fn start_here(self, found: Arc<Found>) -> Result<Kafka, StartError> {
        let board = Arc::new(Board::default());
        let mut prepared = Vec::new();
        let mut listeners: Vec<(String, Vec<String>)> =
            self.listeners.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        for id in 1..=self.nodes {
            let claim = || Port::claim().map_err(StartError::prepare(&name(id)));
            let (clients, brokers, controllers) = (claim()?, claim()?, claim()?);
            let wires = match self.linked {
                true => Some(
                    Wires::to(&board, clients.number(), &[brokers.number(), controllers.number()]).await?,
                ),
                false => None,
            };
            let announced = match &wires {
                Some(wires) => (wires.clients().address().port(), wires.peer_port(0), wires.peer_port(1)),
                None => (clients.number(), brokers.number(), controllers.number()),
            };
            let (mut more, mut ports) = (Vec::new(), Vec::new());
            for (at, (name, protocol)) in self.listeners.iter().enumerate() {
                let port = claim()?;
                more.push((name.clone(), protocol.clone(), port.number()));
                listeners[at].1.push(port.address());
                ports.push(port);
            }
            let node = Node {
                id,
                clients: (clients.number(), announced.0),
                brokers: (brokers.number(), announced.1),
                controllers: (controllers.number(), announced.2),
                more,
            };
            ports.extend([clients, brokers, controllers]);
            prepared.push((node, ports, wires, announced));
        }
        let voters: Vec<(usize, u16)> =
            prepared.iter().map(|(node, _, _, announced)| (node.id, announced.2)).collect();
        let cluster = random_id();
        let mut nodes = Vec::new();
        for (node, ports, wires, announced) in prepared {
            let name = name(node.id);
            let folder = folder_for(&name)?;
            let text = properties::text(&node, &voters, &self.properties);
            std::fs::write(folder.path().join(PROPERTIES), text).map_err(StartError::prepare(&name))?;
            let probe =
                Probe::Kafka { address: format!("127.0.0.1:{}", node.clients.0), brokers: self.nodes };
            let (at, launch) = (folder.path().to_owned(), found.launch.clone());
            let plan = Plan { launch, arguments: self.arguments(), folder: at, probe, within: READY, ports };
            nodes.push(Server::own(&name, format!("127.0.0.1:{}", announced.0), plan, folder, wires));
        }
        // One JVM for the first; what it makes for the others differs in their ids only.
        let folders: Vec<(String, PathBuf)> = nodes
            .iter()
            .filter_map(|node: &Server| Some((node.name().to_owned(), node.folder()?.to_owned())))
            .collect();
        let launch = found.launch.clone();
        background::blocking(move || {
            let [(name, first), others @ ..] = folders.as_slice() else { return Ok(()) };
            format(&launch, name, first, &cluster)?;
            for (index, (name, folder)) in others.iter().enumerate() {
                format_like(first, folder, index + 2).map_err(StartError::prepare(name))?;
            }
            Ok(())
        })
        .await?;
        for node in &nodes {
            node.begin()?;
        }
        for node in &nodes {
            node.wait_ready().await?;
        }
        Ok(Kafka { nodes, listeners })
    }

    fn arguments(&self) -> Vec<String> {
        let heap = [format!("-Xmx{}m", self.heap_mb)];
        let own = JVM.iter().map(|option| (*option).to_owned()).chain(heap);
        own.chain(self.jvm.iter().cloned()).chain(["kafka.Kafka".to_owned(), PROPERTIES.to_owned()]).collect()
    }
}

fn name(id: usize) -> String {
    format!("kafka-{id}")
}

/// Prepares the data folder of a node; one that is prepared stays as it is.
pub(crate) fn format(launch: &Launch, name: &str, folder: &Path, cluster: &str) -> Result<(), StartError> {
    let words = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", PROPERTIES];
    let words: Vec<String> = JVM.iter().chain(&words).map(|word| (*word).to_owned()).collect();
    let boxed = format!("testkit-{}-format-{name}", std::process::id());
    let command = launch.server(&boxed, folder, &words);
    provision::run_tool(command, READY).map(|_| ()).map_err(|what| StartError::setup(name, what))
}

/// Prepares the data folder of another node of the same cluster.
fn format_like(first: &Path, folder: &Path, id: usize) -> std::io::Result<()> {
    std::fs::create_dir(folder.join("data"))?;
    for file in std::fs::read_dir(first.join("data"))? {
        let (from, to) = (file?.path(), folder.join("data"));
        let Some(name) = from.file_name() else { continue };
        if name == "meta.properties" {
            let meta = meta_for(&std::fs::read_to_string(&from)?, id, &random_id());
            std::fs::write(to.join(name), meta)?;
        } else {
            std::fs::copy(&from, to.join(name))?;
        }
    }
    Ok(())
}

/// The `meta.properties` of one node made into that of another.
fn meta_for(meta: &str, id: usize, directory: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some(("node.id", _)) => format!("node.id={id}\n"),
        Some(("directory.id", _)) => format!("directory.id={directory}\n"),
        _ => format!("{line}\n"),
    };
    meta.lines().map(line).collect()
}

/// A random id of the form that Kafka wants: 16 bytes in the base64 of URLs, which do not begin with a dash.
pub(crate) fn random_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random = || std::hash::RandomState::new().build_hasher().finish();
    let mut bits = u128::from(random()) << 64 | u128::from(random());
    let mut id = String::from("T");
    // The last of 22 letters stands for two bits only, and is one of four.
    for _ in 0..20 {
        id.push(char::from(LETTERS[usize::try_from(bits & 63).unwrap_or_default()]));
        bits >>= 6;
    }
    id.push('A');
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_that_kafka_wants_and_differ() {
        let (one, other) = (random_id(), random_id());
        assert!(one.len() == 22 && !one.starts_with('-') && one != other, "{one} {other}");
    }

    #[test]
    fn another_node_differs_in_its_ids_only() {
        let meta = "#\nnode.id=1\ndirectory.id=old\nversion=1\ncluster.id=same\n";
        assert_eq!(meta_for(meta, 3, "new"), "#\nnode.id=3\ndirectory.id=new\nversion=1\ncluster.id=same\n");
    }
}
