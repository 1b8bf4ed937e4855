//! The folder of definition files: what is put there runs, and what is taken away does not.

use reqwest::Method;

use crate::process::Server;

async fn greeting(server: &Server) -> String {
    server.raw(Method::GET, "/greeter/ada", None, &[]).await.text
}

#[tokio::test]
async fn a_definition_file_that_comes_changes_breaks_and_goes_is_followed() {
    let server = Server::with_config("[manager]\nauto_load = true\n").await;
    let folder = server.folder.path().join("plugins");
    let deadline = tokio::time::Instant::now() + crate::process::PATIENCE;
    while !folder.is_dir() {
        assert!(tokio::time::Instant::now() < deadline, "the folder is made");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let write = |text: &str| std::fs::write(folder.join("greeter.toml"), text).unwrap();

    write("type = \"greeter\"\nversion = \"^1.0\"\n");
    server.until("/plugins", |data| data["total"] == 3).await;
    server.until("/plugins/greeter", |data| data["plugin"]["status"] == "running").await;
    assert!(greeting(&server).await.contains("hello, ada"));

    write("type = \"greeter\"\nversion = \"^1.0\"\n\n[config]\ngreeting = \"moin\"\n");
    server.until("/plugins/greeter/config", |data| data["config"]["greeting"] == "moin").await;
    server.until("/plugins/greeter", |data| data["plugin"]["ready"] == true).await;
    assert!(greeting(&server).await.contains("moin, ada"));

    let seen = server.get("/plugins/greeter").await.data()["plugin"]["incarnation"].clone();
    write("type = ");
    // A second file, so that there is something to see once the folder has been read again.
    std::fs::write(folder.join("second.toml"), "type = \"greeter\"\nname = \"second\"\nenabled = false\n")
        .unwrap();
    std::fs::write(folder.join("third.toml"), "type = \"no-such-type\"\n").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(server.get("/plugins/greeter").await.data()["plugin"]["incarnation"], seen, "a broken file");
    assert_eq!(server.get("/plugins").await.data()["total"], 3);

    std::fs::remove_file(folder.join("greeter.toml")).unwrap();
    server.until("/plugins", |data| data["total"] == 2).await;
    server.get("/plugins/greeter").await.refusal(404);
}
