//! Random histories: each engine must answer every call exactly as the model does. A history that
//! fails is shrunk, and kept for replay under `proptest-regressions`.

use std::collections::BTreeMap;
use std::fmt::Debug;

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::store::{
    Answer, Filter, Forget, Grantee, Intent, LeaseRequest, PaymentJournal, PaymentState, PostgresOptions,
    PostgresStore, SqliteOptions, SqliteStore, Store, StoreError, postgres_server,
};
use proptest::prelude::*;

use super::cluster::database;
use super::model::Model;
use super::samples::{NOW, grantee, hash, holder, id, purse, sent, signed, under_id};

/// Payments there are: two on one frontier, one on another, one sent by its payer.
const PAYMENTS: u8 = 4;
const HOLDERS: u8 = 3;
/// Ids that payments are made under.
const IDS: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Call {
    Begin {
        payment: u8,
        challenge: u8,
        under: Option<u8>,
    },
    Advance {
        payment: u8,
        from: PaymentState,
        or_from: PaymentState,
        to: PaymentState,
    },
    Grant {
        payment: u8,
        challenge: u8,
        under: Option<u8>,
        stranger: bool,
        holder: u8,
        want: u128,
        ttl: u64,
    },
    Lease {
        payment: u8,
        holder: u8,
        ahead: u64,
        used: u128,
        returned: u128,
        broken: u32,
        want: u128,
        ttl: u64,
    },
    Identified {
        id: u8,
    },
    Keep {
        payment: u8,
        length: Option<usize>,
    },
    Kept {
        payment: u8,
    },
    Forget {
        ids: u64,
        answers: u64,
        limit: u32,
    },
    Revoke {
        payment: u8,
    },
    Mark {
        payment: u8,
    },
    Payment {
        payment: u8,
    },
    Capability {
        payment: u8,
    },
    Scan {
        after: u64,
        state: Option<PaymentState>,
        limit: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn intent(payment: u8, challenge: u8, under: Option<u8>) -> Intent {
    let intent = match payment {
        0 | 1 => signed(hash(payment), hash(100), challenge),
        2 => signed(hash(payment), hash(101), challenge),
        _ => sent(hash(payment), challenge),
    };
    // Every second one buys a purse.
    let identified = under.map(|id| under_id(id, payment));
    if payment.is_multiple_of(2) {
        return Intent { identified, ..intent };
    }
    Intent { identified, terms: purse(), amount: purse().amount, ..intent }
}

/// Mostly without an id.
fn under() -> impl Strategy<Value = Option<u8>> {
    proptest::option::weighted(0.4, 0..IDS)
}

fn state() -> impl Strategy<Value = PaymentState> {
    prop_oneof![
        Just(PaymentState::Intent),
        Just(PaymentState::Parked),
        Just(PaymentState::Granted),
        Just(PaymentState::Failed),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let payment = 0..PAYMENTS;
    // Mostly the right challenge.
    let challenge = prop_oneof![5 => Just(1_u8), 1 => Just(2)];
    prop_oneof![
        4 => (payment.clone(), challenge.clone(), under())
            .prop_map(|(payment, challenge, under)| Call::Begin { payment, challenge, under }),
        3 => (payment.clone(), state(), state(), state())
            .prop_map(|(payment, from, or_from, to)| Call::Advance { payment, from, or_from, to }),
        4 => (payment.clone(), challenge, under(), prop::bool::weighted(0.1), 0..HOLDERS, 0..12_u128, 0..40_u64).prop_map(
            |(payment, challenge, under, stranger, holder, want, ttl)| Call::Grant {
                payment, challenge, under, stranger, holder, want, ttl
            }
        ),
        10 => (
            payment.clone(), 0..HOLDERS, prop_oneof![1 => Just(0_u64), 6 => Just(1), 1 => Just(2)],
            0..4_u128, 0..3_u128, 0..3_u32, 0..8_u128, 0..40_u64
        ).prop_map(|(payment, holder, ahead, used, returned, broken, want, ttl)| Call::Lease {
            payment, holder, ahead, used, returned, broken, want, ttl
        }),
        2 => (0..IDS).prop_map(|id| Call::Identified { id }),
        2 => (payment.clone(), proptest::option::of(0..3_usize))
            .prop_map(|(payment, length)| Call::Keep { payment, length }),
        2 => payment.clone().prop_map(|payment| Call::Kept { payment }),
        1 => (0..90_u64, 0..60_u64, 0..3_u32)
            .prop_map(|(ids, answers, limit)| Call::Forget { ids, answers, limit }),
        1 => payment.clone().prop_map(|payment| Call::Revoke { payment }),
        1 => payment.clone().prop_map(|payment| Call::Mark { payment }),
        1 => payment.clone().prop_map(|payment| Call::Payment { payment }),
        1 => payment.prop_map(|payment| Call::Capability { payment }),
        1 => (prop_oneof![0..5_u64, Just(u64::MAX)], proptest::option::of(state()), 0..5_usize)
            .prop_map(|(after, state, limit)| Call::Scan { after, state, limit }),
        3 => (0..60_u64).prop_map(|seconds| Call::Wait { seconds }),
    ]
}

/// One history's state outside the stores.
struct Teller {
    now: UnixSeconds,
    /// The number of the last call that each holder got an answer to.
    numbers: BTreeMap<(u8, u8), u64>,
}

impl Teller {
    /// The answer in a form that shows everything but the wording of errors.
    async fn ask(&self, store: &impl Store, call: Call) -> String {
        let now = self.now;
        match call {
            Call::Begin { payment, challenge, under } => {
                shown(store.begin(&intent(payment, challenge, under), now).await)
            }
            Call::Advance { payment, from, or_from, to } => {
                shown(store.advance(hash(payment), &[from, or_from], to, now).await)
            }
            Call::Grant { payment, challenge, under, stranger, holder: by, want, ttl } => {
                let named: BlockHash = if stranger { hash((payment + 1) % PAYMENTS) } else { hash(payment) };
                let intent = intent(payment, challenge, under);
                shown(store.grant(&intent, Grantee { ttl, ..grantee(named, by, want) }, now).await)
            }
            Call::Lease { payment, holder: by, ahead, used, returned, broken, want, ttl } => {
                let last = self.numbers.get(&(payment, by)).copied().unwrap_or(0);
                let request = LeaseRequest {
                    capability: id(hash(payment)),
                    holder: holder(by),
                    sequence: last + ahead,
                    used,
                    returned,
                    broken,
                    want,
                    ttl,
                };
                shown(store.lease(request, now).await)
            }
            Call::Identified { id } => shown(store.identified(under_id(id, 0).id).await),
            Call::Keep { payment, length } => {
                let headers = vec![("etag".to_owned(), vec![b'"', 0xff, b':'])];
                let body = length.map(|length| vec![payment; length]);
                shown(store.keep(hash(payment), &Answer { status: 200, headers, body }, now).await)
            }
            Call::Kept { payment } => shown(store.kept(hash(payment)).await),
            Call::Forget { ids, answers, limit } => {
                let ago = |seconds: u64| UnixSeconds(now.0 - seconds);
                let (ids_until, answers_until) = (ago(ids), ago(answers));
                shown(store.forget(Forget { ids_until, answers_until, limit }).await)
            }
            Call::Revoke { payment } => shown(store.revoke(id(hash(payment)), now).await),
            Call::Mark { payment } => shown(store.mark_spent(hash(payment), now).await),
            Call::Payment { payment } => shown(store.payment(hash(payment)).await),
            Call::Capability { payment } => shown(store.capability(id(hash(payment))).await),
            Call::Scan { after, state, limit } => shown(store.scan(after, Filter { state }, limit).await),
            Call::Wait { .. } => String::new(),
        }
    }

    fn note(&mut self, call: Call, answer: &str) {
        if let Call::Wait { seconds } = call {
            self.now = self.now.plus(seconds);
        }
        if let Call::Lease { payment, holder, ahead, .. } = call
            && answer.starts_with("Ok")
        {
            *self.numbers.entry((payment, holder)).or_insert(0) += ahead;
        }
    }
}

fn shown<T: Debug>(answer: Result<T, StoreError>) -> String {
    format!(
        "{:?}",
        answer.map_err(|error| match error {
            StoreError::NotApplied(_) => "not applied".to_owned(),
            StoreError::Unknown(_) => "unknown".to_owned(),
            // Every store here is there.
            StoreError::Unavailable(why) => format!("unavailable: {why}"),
        })
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_model_does(calls in prop::collection::vec(call(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let model = Model::default();
            let sqlite =
                SqliteStore::open(&directory.path().join("store.db"), SqliteOptions::default()).unwrap();
            let mut teller = Teller { now: NOW, numbers: BTreeMap::new() };
            for call in calls {
                let expected = teller.ask(&model, call).await;
                let got = teller.ask(&sqlite, call).await;
                prop_assert_eq!(&got, &expected, "{:?}", call);
                teller.note(call, &expected);
            }
            let journals = (model.scan(0, Filter::default(), 99).await, sqlite.scan(0, Filter::default(), 99).await);
            prop_assert_eq!(journals.0, journals.1);
            sqlite.close().await;
            Ok(())
        })?;
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn postgres_answers_as_the_model_does(calls in prop::collection::vec(call(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(database) = database().await else { return Ok(()) };
            // Nothing is lost here that matters, and thousands of commits are waited for.
            let address = database.address_with(database.socket, "-c synchronous_commit=off");
            let mut options = PostgresOptions::new(postgres_server(&address).unwrap());
            options.allow_unsafe = true;
            let postgres = PostgresStore::open(&options).await.unwrap();
            let model = Model::default();
            let mut teller = Teller { now: NOW, numbers: BTreeMap::new() };
            for call in calls {
                let expected = teller.ask(&model, call).await;
                let got = teller.ask(&postgres, call).await;
                prop_assert_eq!(&got, &expected, "{:?}", call);
                teller.note(call, &expected);
            }
            let journals = (model.scan(0, Filter::default(), 99).await, postgres.scan(0, Filter::default(), 99).await);
            prop_assert_eq!(journals.0, journals.1);
            postgres.close().await;
            Ok(())
        })?;
    }
}
