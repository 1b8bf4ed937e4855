use testkit::provision::Provision;
use testkit::{Condition, Redis, Service, Services, need};

use crate::wire::exchange;

fn conditions(standing: &[testkit::Standing]) -> Vec<Condition> {
    standing.iter().map(|one| one.state.clone()).collect()
}

#[tokio::test]
async fn a_service_goes_up_and_down_on_the_same_data() {
    need!(Redis::start());
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::from_environment();
    let services = Services::new(provision).in_folder(folder.path()).with_ports_shifted(21_500);
    let status = services.status(Service::Redis).await.unwrap();
    assert_eq!(conditions(&status), [Condition::Down]);

    let up = services.up(Service::Redis).await.unwrap();
    assert_eq!((up[0].address.as_str(), conditions(&up)), ("127.0.0.1:27879", vec![Condition::Ready]));
    exchange("127.0.0.1:27879", b"SET kept yes\r\n").await.unwrap();
    // Again is no harm.
    services.up(Service::Redis).await.unwrap();
    assert_eq!(conditions(&services.down(Service::Redis).await.unwrap()), [Condition::Down]);
    services.up(Service::Redis).await.unwrap();
    assert_eq!(exchange("127.0.0.1:27879", b"GET kept\r\n").await.unwrap(), b"$3\r\nyes\r\n");

    // What somebody else started is left alone.
    let other = Services::new(Provision::from_environment())
        .in_folder(folder.path().join("other"))
        .with_ports_shifted(21_500);
    for standing in [other.up(Service::Redis).await, other.down(Service::Redis).await] {
        assert_eq!(conditions(&standing.unwrap()), [Condition::Foreign]);
    }
    services.down(Service::Redis).await.unwrap();
    services.wipe(Service::Redis).unwrap();
    assert!(!folder.path().join("redis").exists());
}
