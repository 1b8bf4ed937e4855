//! A proxy in front of a server that can be cut, delayed, or made to swallow everything.

mod board;
mod owner;
mod pump;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::{StartError, background};
pub(crate) use board::{Board, Slot};

/// What a link does with what is sent over it. Where several apply to a connection, the later one here wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// Passes everything on at once.
    #[default]
    Open,
    /// Passes everything on, each way this much later.
    Delayed(Duration),
    /// Accepts connections and passes nothing on; what was sent meanwhile arrives when it is opened again.
    BlackHole,
    /// Resets all connections, and new ones as soon as they are made.
    Cut,
}

/// A TCP proxy on a loopback port of its own.
///
/// It serves on a thread of this crate, so that neither a busy test nor paused time stalls it, and ends with
/// the value. A connection that is made while the link is a black hole reaches the server only later.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
/// let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let link = testkit::Link::to(server.local_addr()?).await?;
/// let mut client = tokio::net::TcpStream::connect(link.address()).await?;
/// let (mut accepted, _) = server.accept().await?;
/// accepted.write_all(b"hello").await?;
/// let mut got = [0; 5];
/// client.read_exact(&mut got).await?;
///
/// link.cut();
/// assert!(!matches!(client.read(&mut got).await, Ok(1..)));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    board: Arc<Board>,
    slot: Slot,
    connections: Arc<AtomicUsize>,
    serving: AbortHandle,
}

impl Link {
    /// Puts a link before the server at `target`, which need not run yet.
    ///
    /// # Errors
    ///
    /// [`StartError::Prepare`], if no port could be had.
    pub async fn to(target: SocketAddr) -> Result<Self, StartError> {
        let board = Arc::new(Board::default());
        background::run(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(StartError::prepare("link"))?;
            Self::serve(listener, target, board, None)
        })
        .await
    }

    /// A link on a board, for a member of a cluster. Must be called on the runtime of this crate.
    pub(crate) async fn on(board: &Arc<Board>, target: SocketAddr, member: Slot) -> Result<Self, StartError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(StartError::prepare("link"))?;
        Self::serve(listener, target, Arc::clone(board), Some(member))
    }

    fn serve(
        listener: TcpListener,
        target: SocketAddr,
        board: Arc<Board>,
        member: Option<Slot>,
    ) -> Result<Self, StartError> {
        let address = listener.local_addr().map_err(StartError::prepare("link"))?;
        let slot = board.slot();
        let connections = Arc::new(AtomicUsize::new(0));
        let slots: Vec<Slot> = [slot].into_iter().chain(member).collect();
        let service = accept(listener, target, Arc::clone(&board), slots, Arc::clone(&connections));
        let serving = background::handle()?.spawn(service).abort_handle();
        Ok(Self { address, board, slot, connections, serving })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.board.get(self.slot)
    }

    /// How many connections stand.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Passes everything on.
    pub fn open(&self) {
        self.board.set(self.slot, LinkState::Open);
    }

    /// Resets all connections, and new ones too.
    pub fn cut(&self) {
        self.board.set(self.slot, LinkState::Cut);
    }

    /// Swallows everything.
    pub fn black_hole(&self) {
        self.board.set(self.slot, LinkState::BlackHole);
    }

    /// Passes everything on later, each way by this much.
    pub fn delay(&self, by: Duration) {
        self.board.set(self.slot, LinkState::Delayed(by));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The connections are the acceptor's and go with it.
        self.serving.abort();
    }
}

/// All links of one member, and what the member as a whole is doing.
#[derive(Debug)]
pub(crate) struct Wires {
    board: Arc<Board>,
    member: Slot,
    clients: Link,
    peers: Vec<Link>,
}

impl Wires {
    /// Links to a member: one for clients, and one for each address that other members connect to.
    pub(crate) async fn to(board: &Arc<Board>, clients: u16, peers: &[u16]) -> Result<Self, StartError> {
        let member = board.slot();
        let target = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let clients = Link::on(board, target(clients), member).await?;
        let mut links = Vec::new();
        for port in peers {
            links.push(Link::on(board, target(*port), member).await?);
        }
        Ok(Self { board: Arc::clone(board), member, clients, peers: links })
    }

    pub(crate) fn clients(&self) -> &Link {
        &self.clients
    }

    /// The port of one of the links for other members.
    pub(crate) fn peer_port(&self, index: usize) -> u16 {
        self.peers.get(index).map_or(0, |link| link.address.port())
    }

    /// Tells which process the member is, so that what it sends to others is its own too.
    pub(crate) fn belongs_to(&self, pid: u32) {
        self.board.belongs_to(self.member, pid);
    }

    pub(crate) fn cut(&self) {
        self.board.set(self.member, LinkState::Cut);
    }

    pub(crate) fn black_hole(&self) {
        self.board.set(self.member, LinkState::BlackHole);
    }

    pub(crate) fn delay(&self, by: Duration) {
        self.board.set(self.member, LinkState::Delayed(by));
    }

    pub(crate) fn open(&self) {
        self.board.set(self.member, LinkState::Open);
    }
}

/// Serves a link until it is aborted.
async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    board: Arc<Board>,
    slots: Vec<Slot>,
    connections: Arc<AtomicUsize>,
) {
    let mut serving = JoinSet::new();
    loop {
        let (client, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors or the like: it may pass.
                Err(_) => { tokio::time::sleep(Duration::from_millis(20)).await; continue }
            },
            Some(_) = serving.join_next() => continue,
        };
        let (mut slots, board, connections) = (slots.clone(), Arc::clone(&board), Arc::clone(&connections));
        serving.spawn(async move {
            let _counted = Counted::new(&connections);
            // Who is cut off is not asked who comes: those who are refused come again and again.
            if board.worst(&slots) != LinkState::Cut {
                // A member that is cut off is cut off from the others' links as well.
                let (to, members) = (client.local_addr(), board.members());
                let owner = tokio::task::spawn_blocking(move || owner::of(from, to.ok()?, &members));
                slots.extend(owner.await.ok().flatten());
            }
            pump::connection(client, target, &board, &slots).await;
        });
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
