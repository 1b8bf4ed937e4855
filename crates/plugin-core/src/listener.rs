//! Listening sockets belong to the host, so that they survive the swap of the plugin that serves them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};

use crate::PluginName;

/// A socket that a transport plugin accepts connections from.
#[derive(Debug, Clone)]
pub struct HostListener {
    socket: Arc<TcpListener>,
    address: SocketAddr,
}

impl HostListener {
    /// The address that it really listens on, also where port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// Those of the system; some, such as too many open files, pass.
    pub async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on `{address}`")]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The system's reason, such as that the address is in use.
    #[source]
    pub source: std::io::Error,
}

/// The host's sockets, by plugin and name.
#[derive(Debug, Default)]
pub struct Listeners {
    open: Mutex<HashMap<(PluginName, String), Open>>,
}

/// A socket, and the address that was asked for.
#[derive(Debug)]
struct Open {
    asked: SocketAddr,
    listener: HostListener,
}

/// A socket that was opened in place of another one, or of none. Dropped, that other one is closed once
/// nobody accepts from it any more.
#[derive(Debug)]
pub(crate) struct Replaced {
    key: (PluginName, String),
    opened: Arc<TcpListener>,
    before: Option<Open>,
}

impl Listeners {
    /// The socket `name` of `plugin` on `address`: the one that is open already if the address is the same.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the system's reason.
    pub async fn listen(
        &self,
        plugin: &PluginName,
        name: &str,
        address: SocketAddr,
    ) -> Result<HostListener, ListenError> {
        self.open(plugin, name, address).await.map(|(listener, _)| listener)
    }

    /// The same, and what it took the place of.
    pub(crate) async fn open(
        &self,
        plugin: &PluginName,
        name: &str,
        address: SocketAddr,
    ) -> Result<(HostListener, Option<Replaced>), ListenError> {
        let key = (plugin.clone(), name.to_owned());
        if let Some(open) = self.lock().get(&key)
            && open.asked == address
        {
            return Ok((open.listener.clone(), None));
        }
        let refused = |source| ListenError { address, source };
        let socket = Arc::new(TcpListener::bind(address).await.map_err(refused)?);
        let listener = HostListener { address: socket.local_addr().map_err(refused)?, socket };
        let before = self.lock().insert(key.clone(), Open { asked: address, listener: listener.clone() });
        let replaced = Replaced { key, opened: listener.socket.clone(), before };
        Ok((listener, Some(replaced)))
    }

    /// Takes back what [`open`](Listeners::open) did, for a plugin that did not come to serve there.
    pub(crate) fn put_back(&self, replaced: Replaced) {
        let Replaced { key, opened, before } = replaced;
        let mut open = self.lock();
        if open.get(&key).is_some_and(|now| Arc::ptr_eq(&now.listener.socket, &opened)) {
            match before {
                Some(before) => drop(open.insert(key, before)),
                None => drop(open.remove(&key)),
            }
        }
    }

    /// Closes the sockets of `plugin`, once nobody accepts from them any more.
    pub fn release(&self, plugin: &PluginName) {
        self.lock().retain(|(owner, _), _| owner != plugin);
    }

    /// The sockets that are open: plugin, name, address.
    #[must_use]
    pub fn addresses(&self) -> Vec<(PluginName, String, SocketAddr)> {
        let addresses = |((plugin, name), open): (&(PluginName, String), &Open)| {
            (plugin.clone(), name.clone(), open.listener.address)
        };
        self.lock().iter().map(addresses).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PluginName, String), Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_survives_until_it_is_released() {
        let listeners = Listeners::default();
        let plugin = PluginName::new("http").unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let first = listeners.listen(&plugin, "http", any).await.unwrap();
        let again = listeners.listen(&plugin, "http", any).await.unwrap();
        assert_eq!(first.address(), again.address());
        let taken = listeners.listen(&PluginName::new("other").unwrap(), "http", first.address()).await;
        let error = taken.unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        listeners.release(&plugin);
        drop((first, again));
        assert!(listeners.addresses().is_empty());
    }
}
