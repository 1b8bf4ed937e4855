//! The same servers for a person: on their default ports, until they are told to go, with data that stay.

mod state;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use state::Started;

use crate::kafka::{self, properties};
use crate::probe::Probe;
use crate::provision::{Launch, Program, Provision};
use crate::redis::resp::{Credentials, Resp};
use crate::redis::{self, cluster};
use crate::server::{open_log, read_log, tail};
use crate::until::until_ready;
use crate::{StartError, background, etcd};

/// How long a server has to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// A server, or a cluster of them, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Service {
    /// One Redis on 6379.
    Redis,
    /// Six Redis on 7000 to 7005, three masters and their replicas; 7100 to 7105 among themselves.
    RedisCluster,
    /// One etcd on 2379; 2380 for members.
    Etcd,
    /// One Kafka on 9092; 9093 and 9094 for itself.
    Kafka,
}

impl Service {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Redis, Self::RedisCluster, Self::Etcd, Self::Kafka];

    /// What it is called on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::RedisCluster => "redis-cluster",
            Self::Etcd => "etcd",
            Self::Kafka => "kafka",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|service| service.name() == name)
    }

    fn program(self) -> Program {
        match self {
            Self::Redis | Self::RedisCluster => Program::RedisServer,
            Self::Etcd => Program::Etcd,
            Self::Kafka => Program::Kafka,
        }
    }
}

/// How one server of a service stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The service and, in a cluster, the server's place in it.
    pub name: String,
    /// Host and port for clients.
    pub address: String,
    /// What it is doing.
    pub state: Condition,
}

/// What a server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Started here and ready.
    Ready,
    /// Started here, and not ready for this reason.
    NotReady(String),
    /// Ready, and started by somebody else; it is left alone.
    Foreign,
    /// Down.
    Down,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            Condition::Ready => "ready",
            Condition::NotReady(reason) => &format!("not ready: {reason}"),
            Condition::Foreign => "ready, and not started here: left alone",
            Condition::Down => "down",
        };
        write!(formatter, "{:18}{:18}{state}", self.name, self.address)
    }
}

/// The servers of one person, remembered in a folder.
#[derive(Clone, Debug)]
pub struct Services {
    folder: PathBuf,
    provision: Provision,
    shift: u16,
}

/// What it takes to start one server.
struct Blueprint {
    name: String,
    port: u16,
    arguments: Vec<String>,
    probe: Probe,
    within: Duration,
}

impl Services {
    /// Those that are remembered in the cache of `provision`.
    #[must_use]
    pub fn new(provision: Provision) -> Self {
        Self { folder: provision.cache().join("services"), provision, shift: 0 }
    }

    /// Those that are remembered in another folder.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// On other ports than the default ones, all higher by this much; wants a folder of its own.
    #[must_use]
    pub fn with_ports_shifted(mut self, by: u16) -> Self {
        self.shift = by;
        self
    }

    /// Starts what is down of a service, on the data that it had, waits until it is ready, and says how each
    /// of its servers stands then. A port on which something else answers is left alone.
    ///
    /// # Errors
    ///
    /// [`StartError`], with the end of the log of what did not start.
    pub async fn up(&self, service: Service) -> Result<Vec<Standing>, StartError> {
        let services = self.clone();
        background::run(async move { services.up_here(service).await }).await
    }

    /// Asks what was started of a service to end, and waits for it. What somebody else started is left alone.
    ///
    /// # Errors
    ///
    /// [`StartError::Prepare`], if what is remembered cannot be read or removed.
    pub async fn down(&self, service: Service) -> Result<Vec<Standing>, StartError> {
        let services = self.clone();
        background::run(async move {
            let started: Vec<Started> =
                services.blueprints(service).iter().filter_map(|plan| services.started(&plan.name)).collect();
            // All at once: members of a cluster wait for each other else.
            started.iter().for_each(|one| one.end(false));
            for one in &started {
                let gone = || async { if one.is_alive() { Err(String::new()) } else { Ok(()) } };
                if until_ready("its end", GRACE, gone).await.is_err() {
                    one.end(true);
                }
            }
            for plan in services.blueprints(service) {
                state::forget(&services.at(&plan.name)).map_err(StartError::prepare(&plan.name))?;
            }
            services.look(service).await
        })
        .await
    }

    /// Removes the data and the logs of a service; to be called when it is down.
    ///
    /// # Errors
    ///
    /// [`StartError::Prepare`], if the system refuses.
    pub fn wipe(&self, service: Service) -> Result<(), StartError> {
        for plan in self.blueprints(service) {
            let folder = self.at(&plan.name);
            if folder.exists() && self.started(&plan.name).is_none() {
                std::fs::remove_dir_all(&folder).map_err(StartError::prepare(&plan.name))?;
            }
        }
        Ok(())
    }

    /// How each server of a service stands.
    ///
    /// # Errors
    ///
    /// [`StartError::Setup`], if this crate's own thread cannot be started.
    pub async fn status(&self, service: Service) -> Result<Vec<Standing>, StartError> {
        let services = self.clone();
        background::run(async move { services.look(service).await }).await
    }

    async fn look(&self, service: Service) -> Result<Vec<Standing>, StartError> {
        let mut standing = Vec::new();
        for plan in self.blueprints(service) {
            let answer = plan.probe.look().await;
            let ours = self.started(&plan.name).is_some();
            let state = match (answer, ours) {
                (Ok(()), true) => Condition::Ready,
                (Ok(()), false) => Condition::Foreign,
                (Err(reason), true) => Condition::NotReady(reason),
                (Err(_), false) => Condition::Down,
            };
            let address = format!("127.0.0.1:{}", plan.port);
            standing.push(Standing { name: plan.name, address, state });
        }
        Ok(standing)
    }

    async fn up_here(&self, service: Service) -> Result<Vec<Standing>, StartError> {
        let before = self.look(service).await?;
        if before.iter().any(|one| one.state == Condition::Foreign) {
            return Ok(before);
        }
        let provision = self.provision.clone();
        let found = background::blocking(move || Ok(provision.find(service.program())?)).await?;
        let plans = self.blueprints(service);
        let mut children = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let down = self.started(&plan.name).is_none();
            children.push(if down { Some(self.begin(service, index, plan, &found.launch)?) } else { None });
        }
        for (plan, child) in plans.iter().zip(&mut children) {
            self.ready(plan, child.as_mut()).await?;
        }
        if service == Service::RedisCluster {
            let reach: Vec<(u16, u16)> = plans.iter().map(|plan| (plan.port, plan.port + 100)).collect();
            let addresses: Vec<String> = reach.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
            let knows_others =
                knows_others(&addresses[0]).await.map_err(|what| StartError::setup(service.name(), what))?;
            if knows_others {
                cluster::agree(&addresses).await?;
            } else {
                cluster::form(&reach, addresses.len() / 2).await?;
            }
        }
        self.look(service).await
    }

    /// Starts one server, which stays when this process goes.
    fn begin(
        &self,
        service: Service,
        index: usize,
        plan: &Blueprint,
        launch: &Launch,
    ) -> Result<Child, StartError> {
        use std::os::unix::process::CommandExt as _;
        let folder = self.at(&plan.name);
        let prepared = std::fs::create_dir_all(&folder).and_then(|()| open_log(&folder));
        let log = prepared.map_err(StartError::prepare(&plan.name))?;
        if service == Service::Kafka {
            self.prepare_kafka(index, &folder, launch)?;
        }
        let boxed = format!("gantry-{}-{}", plan.name, self.shift);
        let mut command = launch.server(&boxed, &folder, &plan.arguments);
        let shown = format!("{command:?}");
        let spawned = log.try_clone().and_then(|errors| {
            command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0).spawn()
        });
        let child = spawned.map_err(|source| StartError::Spawn {
            server: plan.name.clone(),
            command: shown,
            source,
        })?;
        let container = launch.container().map(|container| (container.docker.clone(), boxed));
        state::remember(&folder, &child, container).map_err(StartError::prepare(&plan.name))?;
        Ok(child)
    }

    async fn ready(&self, plan: &Blueprint, child: Option<&mut Child>) -> Result<(), StartError> {
        let server = plan.name.clone();
        let log = || tail(&read_log(&self.at(&plan.name)));
        let begun = Instant::now();
        let mut child = child;
        loop {
            if let Some(status) = child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let _ = state::forget(&self.at(&plan.name));
                return Err(StartError::Exited { server, status, log: log() });
            }
            let Err(last) = plan.probe.look().await else { return Ok(()) };
            if begun.elapsed() > plan.within {
                return Err(StartError::NotReady { server, within: plan.within, last, log: log() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn prepare_kafka(&self, index: usize, folder: &Path, launch: &Launch) -> Result<(), StartError> {
        if folder.join("data/meta.properties").exists() {
            return Ok(());
        }
        let port = |port: u16| port + self.shift;
        let node = properties::Node {
            id: index + 1,
            clients: (port(9092), port(9092)),
            brokers: (port(9093), port(9093)),
            controllers: (port(9094), port(9094)),
            more: Vec::new(),
        };
        let text = properties::text(&node, &[(node.id, node.controllers.1)], &[]);
        std::fs::write(folder.join(kafka::PROPERTIES), text).map_err(StartError::prepare("kafka"))?;
        kafka::format(launch, "kafka", folder, &kafka::random_id())
    }

    fn blueprints(&self, service: Service) -> Vec<Blueprint> {
        let port = |port: u16| port + self.shift;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let redis_probe = |port: u16| Probe::Redis { address: at(port), credentials: Credentials::default() };
        match service {
            Service::Redis => {
                let port = port(6379);
                let (name, arguments) = ("redis".to_owned(), redis::arguments(port));
                vec![Blueprint { name, port, arguments, probe: redis_probe(port), within: redis::READY }]
            }
            Service::RedisCluster => (0..6)
                .map(|index| {
                    let port = port(7000 + index);
                    let mut arguments = redis::arguments(port);
                    arguments.extend(cluster::cluster_arguments(port + 100, Duration::from_secs(2)));
                    let name = format!("redis-cluster-{index}");
                    Blueprint { name, port, arguments, probe: redis_probe(port), within: redis::READY }
                })
                .collect(),
            Service::Etcd => {
                let (clients, members) = (port(2379), port(2380));
                let arguments = etcd::arguments(0, (clients, members), (clients, members), &[members]);
                let (name, probe) = ("etcd".to_owned(), Probe::Etcd { address: at(clients) });
                vec![Blueprint { name, port: clients, arguments, probe, within: etcd::READY }]
            }
            Service::Kafka => {
                let port = port(9092);
                let words = kafka::JVM.iter().copied().chain(["-Xmx512m", "kafka.Kafka", kafka::PROPERTIES]);
                let arguments = words.map(ToOwned::to_owned).collect();
                let probe = Probe::Kafka { address: at(port), brokers: 1 };
                vec![Blueprint { name: "kafka".to_owned(), port, arguments, probe, within: kafka::READY }]
            }
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The server of that name, if it was started here and is alive.
    fn started(&self, name: &str) -> Option<Started> {
        state::recall(&self.at(name)).filter(Started::is_alive)
    }
}

async fn knows_others(address: &str) -> Result<bool, String> {
    let mut node = Resp::connect(address, &Credentials::default()).await?;
    Ok(!node.call(&["CLUSTER", "INFO"]).await?.to_string().contains("cluster_known_nodes:1\r"))
}
