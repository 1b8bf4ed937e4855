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
    open: Mutex<HashMap<(PluginName, String), (SocketAddr, HostListener)>>,
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
        let key = (plugin.clone(), name.to_owned());
        if let Some((asked, listener)) = self.lock().get(&key)
            && *asked == address
        {
            return Ok(listener.clone());
        }
        let refused = |source| ListenError { address, source };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let listener =
            HostListener { address: socket.local_addr().map_err(refused)?, socket: Arc::new(socket) };
        self.lock().insert(key, (address, listener.clone()));
        Ok(listener)
    }

    /// Closes the sockets of `plugin`, once nobody accepts from them any more.
    pub fn release(&self, plugin: &PluginName) {
        self.lock().retain(|(owner, _), _| owner != plugin);
    }

    /// The sockets that are open: plugin, name, address.
    #[must_use]
    pub fn addresses(&self) -> Vec<(PluginName, String, SocketAddr)> {
        self.lock().iter().map(|((plugin, name), (_, l))| (plugin.clone(), name.clone(), l.address)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PluginName, String), (SocketAddr, HostListener)>> {
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
