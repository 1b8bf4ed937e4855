//! etcd, alone or as a cluster.

pub(crate) mod http;

use std::sync::Arc;
use std::time::Duration;

use crate::environment;
use crate::link::{Board, Wires};
use crate::port::Port;
use crate::probe::Probe;
use crate::provision::{self, Launch, Program};
use crate::server::{Plan, folder_for};
use crate::{ControlError, Server, StartError, background};

/// How long a member may take to be ready.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// An etcd of one member or several.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Server>,
    ports: Vec<(String, Vec<u16>)>,
}

impl Etcd {
    /// Starts a single member, which needs nobody's agreement.
    ///
    /// # Errors
    ///
    /// [`StartError::Unavailable`] where there is no etcd, or why it did not start.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().members(1).start().await
    }

    /// Starts three members, of which any two go on without the third.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn cluster() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Uses what `GANTRY_TEST_ETCD_ENDPOINTS` names, or starts a single member. For tests that hurt nothing
    /// and choose their own keys.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); and where an endpoint that is named does not answer.
    pub async fn provide() -> Result<Self, StartError> {
        const VARIABLE: &str = "GANTRY_TEST_ETCD_ENDPOINTS";
        let addresses = environment::addresses(VARIABLE);
        if addresses.is_empty() {
            return Self::start().await;
        }
        for address in &addresses {
            environment::answers(VARIABLE, address, Probe::Etcd { address: address.clone() }).await?;
        }
        let named = |(index, address): (usize, &String)| Server::foreign(&name(index), address);
        Ok(Self { members: addresses.iter().enumerate().map(named).collect(), ports: Vec::new() })
    }

    /// Starts members with settings.
    #[must_use]
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder { members: 3, linked: false, arguments: Vec::new(), ports: Vec::new() }
    }

    /// Host and port of each member, for clients.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address().to_owned()).collect()
    }

    /// The same as URLs.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}", member.address())).collect()
    }

    /// The members, to be hurt.
    #[must_use]
    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// The port of a member that was claimed under this name with [`EtcdBuilder::port`].
    #[must_use]
    pub fn port(&self, member: usize, name: &str) -> Option<u16> {
        self.ports.iter().find(|(known, _)| known == name)?.1.get(member).copied()
    }

    /// The index of the member that leads, as the first member says that answers and knows of one.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], if none does.
    pub async fn leader(&self) -> Result<usize, ControlError> {
        let mut leaders = Vec::new();
        let mut ids = vec![None; self.members.len()];
        let mut last = "there are no members".to_owned();
        for (index, member) in self.members.iter().enumerate() {
            let asked = http::post(member.address(), "/v3/maintenance/status", "{}");
            match tokio::time::timeout(Duration::from_secs(1), asked).await {
                Ok(Ok(status)) => {
                    ids[index] = http::field(&status, "member_id").map(ToOwned::to_owned);
                    leaders.extend(http::field(&status, "leader").map(ToOwned::to_owned));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = "no answer".into(),
            }
        }
        let leads = |id: &Option<String>| id.as_ref().is_some_and(|id| leaders.contains(id));
        ids.iter()
            .position(leads)
            .ok_or(ControlError::Ask { server: "etcd".into(), what: format!("no leader: {last}") })
    }

    /// Writes a key through a member, as a client would.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], with what the member or the connection said.
    pub async fn put(&self, member: usize, key: &str, value: &str) -> Result<(), ControlError> {
        let json =
            format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", base64(key.as_bytes()), base64(value.as_bytes()));
        self.gateway(member, "/v3/kv/put", &json).await.map(|_| ())
    }

    /// Reads a key through a member, as a client would, with the cluster's agreement.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn get(&self, member: usize, key: &str) -> Result<Option<String>, ControlError> {
        let json = format!("{{\"key\":\"{}\"}}", base64(key.as_bytes()));
        let answer = self.gateway(member, "/v3/kv/range", &json).await?;
        Ok(http::field(&answer, "value").map(|value| String::from_utf8_lossy(&unbase64(value)).into_owned()))
    }

    async fn gateway(&self, member: usize, path: &str, json: &str) -> Result<String, ControlError> {
        let said = |what: String| ControlError::Ask { server: name(member), what };
        let server = self.members.get(member).ok_or_else(|| said("there is no such member".into()))?;
        http::post(server.address(), path, json).await.map_err(said)
    }
}

/// Settings of members that are to be started.
#[derive(Clone, Debug)]
pub struct EtcdBuilder {
    members: usize,
    linked: bool,
    arguments: Vec<String>,
    ports: Vec<String>,
}

impl EtcdBuilder {
    /// So many members.
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members.max(1);
        self
    }

    /// Puts links between each member and its clients, and between the members.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Adds arguments of `etcd`, such as `["--quota-backend-bytes", "16777216"]`, which replace those of the
    /// same name. `{clients}` in one is the member's port for clients, `{NAME}` one that [`port`](Self::port)
    /// claims. TLS, say, is a second URL beside the plain one, which is still looked at to see that the member
    /// is ready: `["--listen-client-urls", "http://127.0.0.1:{clients},https://127.0.0.1:{tls}"]`.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Claims a further port for each member.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.ports.push(name.into());
        self
    }

    /// Starts them and waits until each says that the cluster is healthy.
    ///
    /// # Errors
    ///
    /// As [`Etcd::start`].
    pub async fn start(self) -> Result<Etcd, StartError> {
        let found = provision::find(Program::Etcd).await?;
        background::run(self.start_here(found.launch.clone())).await
    }

    async fn start_here(self, launch: Launch) -> Result<Etcd, StartError> {
        let board = Arc::new(Board::default());
        let mut prepared = Vec::new();
        for index in 0..self.members {
            let claim = || Port::claim().map_err(StartError::prepare(&name(index)));
            let (clients, peers) = (claim()?, claim()?);
            let wires = match self.linked {
                true => Some(Wires::to(&board, clients.number(), &[peers.number()]).await?),
                false => None,
            };
            let announced = match &wires {
                Some(wires) => (wires.clients().address().port(), wires.peer_port(0)),
                None => (clients.number(), peers.number()),
            };
            prepared.push((clients, peers, wires, announced));
        }
        let announced: Vec<u16> = prepared.iter().map(|(_, _, _, announced)| announced.1).collect();
        let mut members = Vec::new();
        let mut ports: Vec<(String, Vec<u16>)> =
            self.ports.iter().map(|name| (name.clone(), Vec::new())).collect();
        for (index, (clients, peers, wires, reached)) in prepared.into_iter().enumerate() {
            let name = name(index);
            let listen = (clients.number(), peers.number());
            let mut arguments = arguments(index, listen, reached, &announced);
            let mut claimed = Vec::new();
            let mut names = vec![("{clients}".to_owned(), clients.number())];
            for (name, numbers) in &mut ports {
                let port = Port::claim().map_err(StartError::prepare(name))?;
                names.push((format!("{{{name}}}"), port.number()));
                numbers.push(port.number());
                claimed.push(port);
            }
            arguments.extend(self.arguments.iter().map(|argument| {
                let named =
                    |text: String, (name, port): &(String, u16)| text.replace(name, &port.to_string());
                names.iter().fold(argument.clone(), named)
            }));
            let folder = folder_for(&name)?;
            let probe = Probe::Etcd { address: clients.address() };
            claimed.extend([clients, peers]);
            let (at, launch) = (folder.path().to_owned(), launch.clone());
            let plan = Plan { launch, arguments, folder: at, probe, within: READY, ports: claimed };
            members.push(Server::own(&name, format!("127.0.0.1:{}", reached.0), plan, folder, wires));
        }
        for member in &members {
            member.begin()?;
        }
        for member in &members {
            member.wait_ready().await?;
        }
        Ok(Etcd { members, ports })
    }
}

fn name(index: usize) -> String {
    format!("etcd-{index}")
}

/// What a member is started with: the ports for clients and for members that it listens on, those that it
/// announces, and those for members that all announce.
pub(crate) fn arguments(index: usize, listen: (u16, u16), reached: (u16, u16), all: &[u16]) -> Vec<String> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> =
        all.iter().enumerate().map(|(index, port)| format!("{}={}", name(index), url(*port))).collect();
    let words = [
        ("--name", name(index)),
        ("--data-dir", "data".into()),
        ("--listen-client-urls", url(listen.0)),
        ("--advertise-client-urls", url(reached.0)),
        ("--listen-peer-urls", url(listen.1)),
        ("--initial-advertise-peer-urls", url(reached.1)),
        ("--initial-cluster", cluster.join(",")),
        ("--initial-cluster-state", "new".into()),
        ("--initial-cluster-token", "testkit".into()),
        ("--logger", "zap".into()),
    ];
    words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The gateway's JSON has keys and values in base64.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            text.push(if at <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for letter in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|known| *known == letter) else { break };
        bits = bits << 6 | u32::try_from(value).unwrap_or_default();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap_or_default());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        // The test vectors of its section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded), plain.as_bytes());
        }
    }
}
