use std::time::Duration;

use testkit::{Link, LinkState, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::wire::{PATIENCE, hear};

async fn linked() -> (TcpListener, Link) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = Link::to(listener.local_addr().unwrap()).await.unwrap();
    (listener, link)
}

async fn none_stand(link: &Link) {
    let gone = async || match link.connections() {
        0 => Ok(()),
        count => Err(format!("{count} stand")),
    };
    until("the end of all connections", PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn everything_passes_both_ways_and_the_end_too() {
    let (listener, link) = linked().await;
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!((link.connections(), link.state()), (1, LinkState::Open));
    let sent: Vec<u8> = (0..5_000_000u32).map(|number| (number % 251) as u8).collect();
    let received = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        server.write_all(b"got it").await.unwrap();
        drop(server);
        all
    };
    let sending = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (received, answer) = tokio::join!(received, sending);
    assert!(received == sent && answer == b"got it");
    none_stand(&link).await;
}

/// A delay is a distance: many pieces sent one after the other arrive together, not each later.
#[tokio::test]
async fn delays_do_not_add_up() {
    let (listener, link) = linked().await;
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    link.delay(Duration::from_millis(200));
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        client.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut got = [0; 20];
    server.read_exact(&mut got).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_black_hole_keeps_connections_and_gives_back_what_it_held() {
    let (listener, link) = linked().await;
    link.black_hole();
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err());
    link.open();
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(hear(&mut server).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_cut_is_a_reset_for_both_sides() {
    let (listener, link) = linked().await;
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    // Through the link, or the cut may come while it is still connecting.
    client.write_all(b"x").await.unwrap();
    assert_eq!(hear(&mut server).await.unwrap(), b"x");
    link.cut();
    for side in [&mut client, &mut server] {
        let error = tokio::time::timeout(PATIENCE, hear(side)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    none_stand(&link).await;
}

#[tokio::test]
async fn a_server_that_is_down_shows_as_a_connection_that_ends() {
    let (listener, link) = linked().await;
    drop(listener);
    let heard = match TcpStream::connect(link.address()).await {
        Ok(mut client) => hear(&mut client).await,
        Err(error) => Err(error),
    };
    assert!(!matches!(heard, Ok(heard) if !heard.is_empty()));
}

/// The runtime of a link is its own: a test whose time stands still, or whose thread is busy, has it all the same.
#[tokio::test(start_paused = true)]
async fn paused_time_does_not_stall_a_link() {
    let (listener, link) = linked().await;
    link.delay(Duration::from_millis(20));
    let target = link.address();
    let client = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(target).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
    let (mut server, _) = listener.accept().await.unwrap();
    let heard = hear(&mut server).await.unwrap();
    server.write_all(&heard).await.unwrap();
    client.await.unwrap();
}
