//! What people get wrong: each with an error that names the server and the setting, an unhealthy plugin, and a
//! host that lives.

use std::path::Path;

use plugins_etcd::{Etcd, EtcdConfig, EtcdError, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use testkit::need;
use testkit::provision::{Program, client as foreign};

use crate::host::{host, says};
use crate::{PATIENCE, client, config};

/// `etcdctl`, with all the time that there is for it.
async fn ctl(servers: &testkit::Etcd, words: &[&str], input: &str) {
    let endpoint = servers.endpoints()[0].clone();
    let words = [&["--endpoints", &endpoint, "--command-timeout", "28s"], words].concat();
    foreign(Program::Etcdctl, &words, input).await.unwrap();
}

async fn with_users(servers: &testkit::Etcd) {
    for words in [
        &["user", "add", "root:sesame"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "reader:sesame"],
        &["auth", "enable"],
    ] {
        ctl(servers, words, "").await;
    }
}

fn with_credentials(servers: &testkit::Etcd, username: &str, password: &str) -> EtcdConfig {
    let password = Some(plugin_core::Secret::new(password));
    EtcdConfig { username: Some(username.to_owned()), password, ..config(servers) }
}

#[tokio::test]
async fn credentials_are_asked_for_and_checked() {
    // Passwords are hashed at the least cost: refusing one takes a busy machine's second otherwise.
    let servers = need!(testkit::Etcd::builder().members(1).arguments(["--bcrypt-cost", "4"]).start());
    // Given where none are asked for.
    let refused =
        Etcd::new(with_credentials(&servers, "root", "sesame")).unwrap().get("a").await.unwrap_err();
    assert!(matches!(refused, EtcdError::Credentials { .. }), "{refused}");
    assert!(refused.to_string().contains("not enabled"), "{refused}");
    with_users(&servers).await;

    let etcd = Etcd::new(with_credentials(&servers, "root", "sesame")).unwrap();
    etcd.put("a", "1").await.unwrap();
    let mut watch = etcd.watch("a").await.unwrap();
    etcd.put("a", "2").await.unwrap();
    assert_eq!(crate::changes(&mut watch).await, ["a=2"]);
    etcd.check().await.unwrap();
    for (etcd, what) in [
        (Etcd::new(with_credentials(&servers, "root", "wrong")).unwrap(), "wrong password"),
        (Etcd::new(with_credentials(&servers, "nobody", "sesame")).unwrap(), "nobody of that name"),
        (client(&servers), "none given"),
        (Etcd::new(with_credentials(&servers, "reader", "sesame")).unwrap(), "no right to that key"),
    ] {
        let refused = etcd.get("a").await.unwrap_err();
        let text = refused.to_string();
        let forbidden = matches!(refused, EtcdError::Forbidden { .. });
        assert!(matches!(refused, EtcdError::Credentials { .. }) || forbidden, "{what}: {text}");
        assert_eq!(forbidden, what == "no right to that key");
        assert!(text.contains("plugins.etcd.username") && text.contains(&servers.addresses()[0]), "{text}");
        assert!(!text.contains("sesame") && !text.contains("wrong"), "{text}");
        let refused = etcd.watch("a").await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("plugins.etcd.username"), "{what}: {refused}");
    }
    // Who may not read the key that is asked for knows that etcd answers.
    Etcd::new(with_credentials(&servers, "reader", "sesame")).unwrap().check().await.unwrap();

    let manager = host(json!({ "endpoints": servers.addresses(), "username": "root", "password": "wrong" }));
    manager.start_all().await.unwrap();
    says(&manager, false, false, "plugins.etcd.password").await;
    // Mended at the server, without a restart.
    let mend = ["--user", "root:sesame", "user", "passwd", "root", "--interactive=false"];
    ctl(&servers, &mend, "wrong\n").await;
    says(&manager, true, true, "ok").await;
    manager.stop_all(PATIENCE).await;
}

/// An authority, a certificate of the server's, and one of a client's, in a folder.
fn certificates(folder: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), authority.pem()).unwrap();
        authority
    };
    let (ours, _) = (authority("ca"), authority("stranger"));
    for name in ["server", "client"] {
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &ours).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), signed.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn both_sides_have_to_speak_tls_and_trust_each_other() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let servers = need!(
        testkit::Etcd::builder()
            .members(1)
            .port("tls")
            .arguments([
                "--listen-client-urls".to_owned(),
                "http://127.0.0.1:{clients},https://127.0.0.1:{tls}".to_owned(),
                "--cert-file".to_owned(),
                file("server.pem"),
                "--key-file".to_owned(),
                file("server-key.pem"),
                "--trusted-ca-file".to_owned(),
                file("ca.pem"),
                "--client-cert-auth".to_owned(),
            ])
            .start()
    );
    let secured = format!("127.0.0.1:{}", servers.port(0, "tls").unwrap());
    let plain = servers.addresses()[0].clone();
    let tls = |ca: &str, client: bool| TlsConfig {
        ca: Some(folder.path().join(ca)),
        certificate: client.then(|| folder.path().join("client.pem")),
        key: client.then(|| folder.path().join("client-key.pem")),
        server_name: None,
    };
    let with = |address: &str, tls: Option<TlsConfig>| {
        Etcd::new(EtcdConfig { tls, timeout: PATIENCE, ..EtcdConfig::at([address]) }).unwrap()
    };
    let etcd = with(&secured, Some(tls("ca.pem", true)));
    etcd.put("a", "1").await.unwrap();
    assert_eq!(servers.get(0, "a").await.unwrap().as_deref(), Some("1"));
    let mut watch = etcd.watch("a").await.unwrap();
    etcd.put("a", "2").await.unwrap();
    assert_eq!(crate::changes(&mut watch).await, ["a=2"]);

    for (etcd, address, what) in [
        (with(&secured, Some(tls("stranger.pem", true))), &secured, "a certificate that nobody trusts"),
        (with(&plain, Some(tls("ca.pem", true))), &plain, "TLS against plain"),
        (with(&secured, None), &secured, "plain against TLS"),
        (with(&format!("https://{secured}"), None), &secured, "the system's authorities"),
    ] {
        let refused =
            crate::soon(what, etcd.within(std::time::Duration::from_secs(3)).get("a")).await.unwrap_err();
        let text = refused.to_string();
        // From this side it looks like a member that dies, so that it is tried again.
        assert_eq!(refused.is_away(), what == "plain against TLS", "{text}");
        assert!(text.contains("plugins.etcd.tls") && text.contains(address.as_str()), "{what}: {text}");
    }
    let refused = with(&secured, Some(tls("absent.pem", false))).get("a").await.unwrap_err().to_string();
    assert!(refused.contains("plugins.etcd.tls.ca") && refused.contains("absent.pem"), "{refused}");
    let without = with(&secured, Some(tls("ca.pem", false))).within(std::time::Duration::from_secs(3));
    let refused = without.get("a").await.unwrap_err().to_string();
    assert!(refused.contains(&secured) && refused.contains("plugins.etcd.tls"), "{refused}");

    let manager = host(json!({ "endpoints": [plain], "tls": { "ca": file("ca.pem") } }));
    manager.start_all().await.unwrap();
    says(&manager, false, false, "plugins.etcd.tls").await;
    manager.stop_all(PATIENCE).await;
}

#[tokio::test]
async fn an_etcd_that_is_full_says_so_and_comes_back() {
    let servers =
        need!(testkit::Etcd::builder().members(1).arguments(["--quota-backend-bytes", "4194304"]).start());
    let etcd = client(&servers);
    let manager = host(json!({ "endpoints": servers.addresses() }));
    manager.start_all().await.unwrap();
    says(&manager, true, true, "ok").await;
    let mut refused = None;
    for index in 0..64 {
        if let Err(error) = etcd.put(format!("fill/{index}"), vec![0; 256 * 1024]).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.unwrap();
    assert!(matches!(refused, EtcdError::NoSpace { .. }), "{refused}");
    assert!(refused.to_string().contains("--quota-backend-bytes"), "{refused}");
    assert!(refused.to_string().contains(&servers.addresses()[0]), "{refused}");
    // What is there can be read.
    assert!(etcd.get("fill/0").await.unwrap().is_some());
    says(&manager, false, false, "--quota-backend-bytes").await;

    // As its operator would: remove, compact, defragment, and take back the alarm.
    etcd.delete_prefix("fill/").await.unwrap();
    let revision = etcd.list("fill/").await.unwrap().revision;
    for words in [&["compact", &revision.to_string()][..], &["defrag"], &["alarm", "disarm"]] {
        ctl(&servers, words, "").await;
    }
    etcd.put("a", "1").await.unwrap();
    says(&manager, true, true, "ok").await;
    manager.stop_all(PATIENCE).await;
}
