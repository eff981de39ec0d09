//! Standby servers: which of them may take over without losing an acknowledged write, and what the doctor says
//! about the others.

use std::time::Duration;

use faregate::cli::doctor;
use faregate::store::{Grant, Meters, PostgresFault, PostgresStore, Replication, StoreError, StoreHealth};

use super::samples::{NOW, grantee, hash, sent};
use super::server::{Server, Site};

async fn grant(store: &PostgresStore, number: u8) -> Result<Grant, StoreError> {
    let block = hash(number);
    store.grant(&sent(block, 1), grantee(block, 1, 1), NOW).await
}

/// Waits until the standbys are kept so.
async fn becomes(store: &PostgresStore, expected: &Replication) {
    let look = async {
        while store.replication().await.unwrap() != *expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    crate::patience::within(Duration::from_secs(60), &format!("standbys: {expected:?}"), look).await;
}

/// What the doctor says of the standbys.
async fn doctor_says(site: &Site, server: &Server) -> serde_json::Value {
    let file = site.path().join("doctor.yaml");
    let text = format!(
        "public_url: http://127.0.0.1:8402\nlisten: {{ http: 127.0.0.1:8402 }}\n\
         nano: {{ nodes: [\"http://127.0.0.1:1\"], pool: {{ seed_file: pool.seed, size: 8 }} }}\n\
         store: {{ postgres: \"{}\" }}\n\
         upstreams: {{ api: {{ url: http://127.0.0.1:3000 }} }}\n\
         routes: [{{ match: /v1/**, upstream: api, price: 1 raw }}]\n",
        server.address("")
    );
    std::fs::write(&file, text).unwrap();
    let mut out = Vec::new();
    doctor::run(doctor::DoctorArgs { config: file.into(), json: true }, &mut out).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|it| it["what"] == "standbys");
    check.unwrap_or_else(|| panic!("{report}")).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_may_take_over_must_be_waited_for() {
    let Some(site) = Site::new() else { return };
    let (first, second) = (site.path().join("first"), site.path().join("second"));
    site.create(&first);
    let primary = site.start(&first, 5432).await;
    let store = primary.open().await;
    assert_eq!(store.replication().await, Ok(Replication::None));
    let alone = doctor_says(&site, &primary).await;
    assert_eq!((&alone["good"], &alone["warning"]), (&true.into(), &false.into()), "{alone}");

    site.copy(&primary, &second);
    let standby = site.start(&second, 5433).await;
    becomes(&store, &Replication::Asynchronous { standbys: 1 }).await;
    let careless = doctor_says(&site, &primary).await;
    assert_eq!((&careless["good"], &careless["warning"]), (&true.into(), &true.into()), "{careless}");
    assert!(careless["detail"].as_str().unwrap().contains("synchronous_standby_names = 'ANY 1 (*)'"));
    let refused = PostgresStore::open(&standby.options("")).await.unwrap_err();
    assert!(matches!(refused, PostgresFault::Standby), "{refused}");

    primary.run("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'").await;
    primary.run("SELECT pg_reload_conf()").await;
    becomes(&store, &Replication::Synchronous { standbys: 1 }).await;
    let heedless = PostgresStore::open(&primary.options("-c synchronous_commit=local")).await.unwrap();
    assert_eq!(heedless.replication().await, Ok(Replication::NotWaitedFor));
    heedless.close().await;
    for number in 0..20 {
        assert!(matches!(grant(&store, number).await, Ok(Grant::Granted { fresh: true, .. })));
    }
    store.close().await;

    primary.kill();
    standby.run("SELECT pg_promote()").await;
    standby.run("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    standby.run("SELECT pg_reload_conf()").await;
    let store = standby.open().await;
    for number in 0..20 {
        let again = grant(&store, number).await;
        assert!(
            matches!(again, Ok(Grant::Granted { fresh: false, .. })),
            "{number} was forgotten: {again:?}"
        );
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_while_no_standby_has_it() {
    let Some(site) = Site::new() else { return };
    let data = site.path().join("data");
    site.create(&data);
    let server = site.start(&data, 5432).await;
    let store = server.open().await;
    grant(&store, 1).await.unwrap();
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'").await;
    server.run("SELECT pg_reload_conf()").await;
    becomes(&store, &Replication::Missing { named: "ANY 1 (*)".to_owned() }).await;
    // The server waits only once its checkpointer has read the setting too.
    let (mut number, mut unheard) = (2, grant(&store, 2).await);
    while unheard.is_ok() && number < 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        number += 1;
        unheard = grant(&store, number).await;
    }
    assert!(matches!(unheard, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{unheard:?}");
    assert!(!store.health().writable);
    let stuck = doctor_says(&site, &server).await;
    assert_eq!(stuck["good"], false, "{stuck}");
    // Who waited is let go with the setting, and what was not answered is found by the same call.
    server.run("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    server.run("SELECT pg_reload_conf()").await;
    becomes(&store, &Replication::None).await;
    let granted = async {
        while !matches!(grant(&store, number).await, Ok(Grant::Granted { .. })) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    crate::patience::within(Duration::from_secs(30), "the store recovers", granted).await;
    store.close().await;
}
