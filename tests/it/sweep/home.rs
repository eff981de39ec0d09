//! A configuration file with its pool's seed and store beside it, and a development ledger.

use std::path::PathBuf;
use std::process::ExitCode;

use faregate::devnet::{Devnet, DevnetOptions, THRESHOLDS};
use faregate::nano::{Account, Raw, SecretKey, Seed};
use faregate::payment::Mechanism;
use faregate::payment::address_pool::seed_indexes;
use tempfile::TempDir;

/// A configuration file, its pool's seed, and a ledger.
pub(crate) struct Home {
    pub(crate) devnet: Devnet,
    pub(crate) folder: TempDir,
    pub(crate) config: PathBuf,
    seed: Seed,
}

pub(crate) const POOL: &str = "{ seed_file: pool.seed, size: 3 }";
pub(crate) const ONE_XNO: u128 = 10_u128.pow(30);

impl Home {
    pub(crate) async fn new(pool: &str, more: &str) -> Self {
        Self::with(pool, more, DevnetOptions::default()).await
    }

    pub(crate) async fn with(pool: &str, more: &str, options: DevnetOptions) -> Self {
        let devnet = Devnet::start(options).await.unwrap();
        let folder = TempDir::new().unwrap();
        let seed = Seed::from_bytes([0x31; 32]);
        let file = folder.path().join("pool.seed");
        std::fs::write(&file, seed.expose_hex()).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let config = folder.path().join("faregate.yaml");
        let text = format!(
            "public_url: http://127.0.0.1:1\nlisten: {{ http: 127.0.0.1:0 }}\n\
             nano:\n  nodes: [{}]\n  pool: {pool}\n  treasury: {}\n  work: {{ send: \"{}\", receive: \"{}\" }}\n\
             upstreams: {{ api: {{ url: http://127.0.0.1:1 }} }}\n\
             routes: [{{ match: /a, upstream: api, price: 1 XNO }}]\n{more}\n",
            devnet.rpc_url(),
            super::TREASURY,
            THRESHOLDS.send,
            THRESHOLDS.receive
        );
        std::fs::write(&config, text).unwrap();
        Self { devnet, folder, config, seed }
    }

    /// The key of a mechanism's address.
    pub(crate) fn key(&self, mechanism: Mechanism, place: u32) -> SecretKey {
        self.seed.key(seed_indexes(mechanism, 3).start + place)
    }

    pub(crate) fn fund(&self, mechanism: Mechanism, place: u32, amount: u128) -> Account {
        let account = self.key(mechanism, place).account();
        self.devnet.fund(account, Raw::new(amount)).unwrap();
        account
    }

    pub(crate) fn treasury(&self) -> u128 {
        self.devnet.lattice().receivable_sum(super::TREASURY, true).get()
    }
}

/// `ExitCode` has no other way to be compared.
pub(crate) fn number(code: ExitCode) -> u8 {
    (0..=255).find(|it| code == ExitCode::from(*it)).expect("an exit code is a byte")
}
