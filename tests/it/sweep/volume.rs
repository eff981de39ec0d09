//! Many payments on many accounts, swept to the raw.

use faregate::clock::Stopwatch;

use super::Pool;

async fn sweep(accounts: u32, each: u32) {
    let mut pool = Pool::new(accounts).await;
    pool.fund_all(each);
    let watch = Stopwatch::start();
    let round = pool.sweeper_with(|it| it.at_once = 16).sweep().await.unwrap();
    let took = watch.elapsed();
    pool.assert_all_home();
    let blocks = usize::try_from(accounts * (each + 1)).unwrap();
    assert_eq!((round.blocks(), round.failed().count()), (blocks, 0));
    #[expect(clippy::print_stdout, reason = "the figure is what it is run for")]
    {
        println!("{blocks} blocks in {took:?}");
    }
}

/// For its figure: `cargo test --release --test it -- ten_thousand --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_payments_over_a_hundred_accounts() {
    sweep(100, 100).await;
}
