//! The same for a server whose data lie on the disk: every process of it stands still, and the copy
//! is recovered by another server.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::stands_still;
use super::{Answered, BEFORE, CLAIMED, Mounted, TELLERS, compare, copy, cuts, make_image, numbered, settle};
use crate::patience::{eventually, within};
use crate::store::server::Site;

/// A server's own files take some 40 MB.
const IMAGE_BYTES: u64 = 160 << 20;
const CUTS: u32 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answered_before_a_power_cut_is_there_after_it() {
    let test = "what_a_server_answered_before_a_power_cut_is_there_after_it";
    let Some(site) = Site::new() else { return };
    let folder = TempDir::new().unwrap();
    for _ in 0..cuts(CUTS) {
        let (image, copied) = (folder.path().join("disk.img"), folder.path().join("copy.img"));
        if !make_image(&image, IMAGE_BYTES, test) {
            return;
        }
        let Some(disk) = Mounted::image(&image, test) else { return };
        let data = disk.path().join("data");
        site.create(&data);
        let server = site.start(&data, 5432).await;
        let store = Arc::new(server.open().await);
        let (next, answered) = (Arc::new(AtomicU32::new(1)), Arc::new(Mutex::new(Answered::default())));
        let tellers: Vec<_> = (0..TELLERS)
            .map(|_| {
                let answered = Arc::clone(&answered);
                tokio::spawn(settle(Arc::clone(&store), Arc::clone(&next), move |what, number| {
                    let mut answered = answered.lock().unwrap();
                    let those = if what == CLAIMED { &mut answered.claimed } else { &mut answered.granted };
                    those.insert(numbered(number));
                }))
            })
            .collect();
        let enough = async {
            while answered.lock().unwrap().granted.len() < BEFORE {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(Duration::from_secs(120), "enough grants before the power cut", enough).await;
        let processes = server.freeze();
        let still = || async { processes.iter().all(|pid| stands_still(*pid)) };
        eventually("every process stands still", still).await;
        let known = std::mem::take(&mut *answered.lock().unwrap());
        copy(&image, &copied);
        for teller in tellers {
            teller.abort();
        }
        drop(store);
        server.kill();
        drop(disk);

        let Some(disk) = Mounted::image(&copied, test) else { panic!("the copy cannot be mounted") };
        let server = site.start(&disk.path().join("data"), 5432).await;
        let store = server.open().await;
        let inspected = store.inspect().await.unwrap();
        assert_eq!(inspected.faults, Vec::<String>::new());
        compare(&store, &known).await;
        store.close().await;
        server.kill();
        drop(disk);
    }
}
