//! Credentials of the real server: made by its command line, asked for, taken back while it runs.

use reqwest::Method;
use serde_json::json;

use crate::process::{Folder, PATIENCE, Server, command, server_program};

/// What a command prints, and whether it went well.
async fn run(folder: &Folder, arguments: &[&str]) -> (bool, String) {
    let output = command(folder, server_program()).args(arguments).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap().trim_end().to_owned())
}

#[tokio::test]
async fn a_token_of_the_command_line_opens_a_server_until_it_is_revoked() {
    let folder = Folder::new();
    let (done, admin) = run(&folder, &["token", "create", "--name", "me", "--role", "admin"]).await;
    assert!(done, "{admin}");
    let (done, again) = run(&folder, &["token", "create", "--name", "me", "--role", "viewer"]).await;
    assert!(!done && again.contains("there is a token named `me` already"), "{again}");
    let (done, list) = run(&folder, &["token", "list"]).await;
    assert!(done && list.contains("me") && list.contains("never") && !list.contains(&admin), "{list}");

    let mut program = command(&folder, server_program());
    program.args(["--set", "access.required=true"]);
    let server = Server::spawn(folder, program).await;
    assert_eq!(server.get("/health/live").await.status.as_u16(), 200);
    let error = server.get("/plugins/status").await.refusal(401);
    assert_eq!(error["kind"], "unauthenticated");
    let bearer = format!("Bearer {admin}");
    let own = [("authorization", bearer.as_str())];
    let status = server.send_as(Method::GET, "/plugins/status", None, &own).await;
    assert_eq!(status.status.as_u16(), 200, "{}", status.text);
    let body = json!({"name": "watch", "role": "viewer"}).to_string();
    let made = server.send_as(Method::POST, "/access/tokens", Some((&body, "application/json")), &own).await;
    let watch = format!("Bearer {}", made.data()["secret"].as_str().unwrap());
    let audit = server.send_as(Method::GET, "/audit", None, &own).await.data();
    assert_eq!(audit["entries"][0]["caller"], "token:me", "{audit}");
    assert_eq!(audit["entries"][0]["action"], "token.create", "{audit}");

    // The command line changes the file under the server's hands, which sees it without being told.
    let watching = [("authorization", watch.as_str())];
    assert_eq!(server.send_as(Method::GET, "/plugins", None, &watching).await.status.as_u16(), 200);
    let (done, said) = run(&server.folder, &["token", "revoke", "watch"]).await;
    assert!(done && said.contains("watch"), "{said}");
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.send_as(Method::GET, "/plugins", None, &watching).await.status.as_u16() != 401 {
        assert!(std::time::Instant::now() < deadline, "the server does not see it");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(server.send_as(Method::GET, "/plugins", None, &own).await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_network_is_not_served_without_authentication() {
    let folder = Folder::new();
    let open = ["--check-config", "--set", "plugins.http.host=0.0.0.0"];
    let (right, said) = run(&folder, &open).await;
    assert!(!right, "{said}");
    for part in ["--set plugins.http.host", "no authentication is required", "access.required"] {
        assert!(said.contains(part), "{said}");
    }
    let (started, said) = run(&folder, &open[1..]).await;
    assert!(!started && said.contains("no authentication is required"), "{said}");
    for insists in ["access.required=true", "plugins.http.allow_unauthenticated_network_access=true"] {
        let (right, said) = run(&folder, &[&open[..], &["--set", insists]].concat()).await;
        assert!(right, "{said}");
    }
    let jwt = r#"access.jwt={"issuer": "https://i.example", "audience": ["a"], "secret_file": "absent"}"#;
    let (started, said) = run(&folder, &["--set", jwt]).await;
    assert!(!started && said.contains("jwt.secret_file") && said.contains("absent"), "{said}");
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/tokens.json"), "{").unwrap();
    let (started, said) = run(&folder, &[]).await;
    assert!(!started && said.contains("tokens.json"), "{said}");
}
