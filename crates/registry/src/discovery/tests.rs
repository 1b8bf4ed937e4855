use super::contract::{Subject, all};
use super::*;

#[tokio::test(start_paused = true)]
async fn memory_passes_the_contract() {
    let subject = Subject {
        discovery: Arc::new(MemoryDiscovery::new()),
        ttl: Duration::from_secs(1),
        patience: Duration::from_secs(5),
        prefix: String::new(),
    };
    all(&subject).await;
}

#[tokio::test(start_paused = true)]
async fn what_expires_leaves_nothing_behind() {
    let discovery = MemoryDiscovery::new();
    let instance = Instance {
        service: "s".to_owned(),
        id: "i".to_owned(),
        node: "n".to_owned(),
        address: String::new(),
        version: Version::new(1, 0, 0),
        healthy: true,
        metadata: BTreeMap::new(),
    };
    let _lease = discovery.register(instance, Duration::from_secs(3)).await.unwrap();
    assert!(format!("{discovery:?}").contains("services: 1"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(format!("{discovery:?}").contains("services: 0"));
}
