//! One connection over a link.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Board, LinkState, Slot};

/// How much is on its way in one direction: this many pieces of this size at most.
const PIECES: usize = 64;
const PIECE: usize = 16 * 1024;

/// A piece of the stream and when it arrives; without bytes, its end.
type Piece = (Instant, Vec<u8>);

/// Carries one connection to its end.
pub(super) async fn connection(mut client: TcpStream, target: SocketAddr, board: &Board, slots: &[Slot]) {
    let server = tokio::select! {
        biased;
        () = cut(board, slots) => None,
        server = connect(target, board, slots) => server.ok(),
    };
    let Some(mut server) = server else { return reset(&client) };
    // Small messages are what these protocols are made of.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let whole = tokio::select! {
        biased;
        () = cut(board, slots) => false,
        carried = carry(&mut client, &mut server, board, slots) => carried.is_ok(),
    };
    if !whole {
        reset(&client);
        reset(&server);
    }
}

/// Makes the drop that follows end the connection with a reset instead of a farewell.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn connect(target: SocketAddr, board: &Board, slots: &[Slot]) -> io::Result<TcpStream> {
    passable(board, slots).await;
    TcpStream::connect(target).await
}

async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    board: &Board,
    slots: &[Slot],
) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = one_way(from_client, to_server, board, slots);
    let back = one_way(from_server, to_client, board, slots);
    tokio::try_join!(there, back).map(|_| ())
}

async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    board: &Board,
    slots: &[Slot],
) -> io::Result<()> {
    // Apart, so that what comes in during a delay keeps its distance instead of adding up.
    let (sender, mut receiver) = mpsc::channel::<Piece>(PIECES);
    let reading = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            passable(board, slots).await;
            let length = from.read(&mut buffer).await?;
            let late = match board.worst(slots) {
                LinkState::Delayed(by) => by,
                _ => Duration::ZERO,
            };
            let piece = (Instant::now() + late, buffer[..length].to_vec());
            if sender.send(piece).await.is_err() || length == 0 {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((at, piece)) = receiver.recv().await {
            sleep_until(at).await;
            passable(board, slots).await;
            match piece.as_slice() {
                [] => to.shutdown().await?,
                bytes => to.write_all(bytes).await?,
            }
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_: ((), ())| ())
}

/// Waits while the connection is a black hole.
async fn passable(board: &Board, slots: &[Slot]) {
    when(board, slots, |state| state != LinkState::BlackHole).await;
}

/// Returns as soon as the connection is to be cut.
async fn cut(board: &Board, slots: &[Slot]) {
    when(board, slots, |state| state == LinkState::Cut).await;
}

/// Waits for a state that satisfies.
async fn when(board: &Board, slots: &[Slot], satisfies: impl Fn(LinkState) -> bool) {
    let mut changes = board.watch();
    loop {
        if satisfies(board.worst(slots)) {
            return;
        }
        // The board outlives its connections.
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
