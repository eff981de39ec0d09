//! What the probes say: that the process lives, that it may sell, that it can serve what was bought.

use super::*;

#[tokio::test]
async fn without_a_node_it_lives_and_serves_what_was_bought_and_is_not_ready_to_sell() {
    let world = World::start().await;
    let mut process = Process::start(&world.write(LISTEN, "", ROUTES), 2, "info").await;
    let url = process.url("/v1/search/x");
    let (token, _) = capability(&world.pay(&client(), &url).await);
    let asked = async |path: &str| {
        let (status, ready) = text(&client(), process.admin(path)).await;
        let ready: Value = serde_json::from_str(&ready).unwrap();
        (status, ready["reason"].clone())
    };
    for path in ["/readyz", "/readyz?for=sales", "/readyz?for=bought"] {
        assert_eq!(asked(path).await, (200, Value::Null), "{path}");
    }
    let metric = async || text(&client(), process.admin("/metrics")).await.1;
    assert!(metric().await.contains("\nfaregate_ready 1\n"));

    let World { devnet, upstream, folder } = world;
    soon("the ledger ends", devnet.stop()).await;
    eventually("it notices", async || asked("/readyz").await == (503, "no_node".into())).await;
    assert_eq!(asked("/readyz?for=sales").await, (503, "no_node".into()));
    assert_eq!(asked("/readyz?for=bought").await, (200, Value::Null));
    for path in ["/livez", "/healthz"] {
        assert_eq!(text(&client(), process.admin(path)).await, (200, "ok\n".to_owned()), "{path}");
    }
    assert!(metric().await.contains("\nfaregate_ready 0\n"));
    let served = client().get(&url).header("PAYMENT-CAPABILITY", &token).send().await.unwrap();
    assert_eq!(served.status(), 200, "it says the truth");
    assert_eq!(error(client().get(&url).send().await.unwrap()).await, "no_node");

    let (status, said) = text(&client(), process.admin("/readyz?for=lunch")).await;
    assert_eq!(status, 400);
    assert!(said.contains("?for=sales"), "{said}");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    drop((upstream, folder));
}
