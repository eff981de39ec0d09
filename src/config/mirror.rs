//! The file as it is written, section by section: which keys there are and of what type.
//!
//! Each value is a [`Piece`] that is right, wrong or missing on its own, so that one wrong value
//! hides no other. The keys of a section are the fields of its struct; nothing else lists them.

use serde::de::{DeserializeOwned, Deserializer, Visitor, value::Error};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_yaml::Value;

/// One value of the file.
#[derive(Debug, Default)]
pub(super) enum Piece<T> {
    #[default]
    Missing,
    /// The key is there, nothing after it.
    Empty,
    Is(T),
    /// Of another type; the error says which.
    Wrong(String),
}

impl<T> Piece<T> {
    /// Whether the key is there, whatever its value.
    pub(super) const fn is_given(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Piece<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        if value.is_null() {
            return Ok(Self::Empty);
        }
        Ok(match serde_path_to_error::deserialize(value) {
            Ok(it) => Self::Is(it),
            Err(error) => Self::Wrong(error.to_string()),
        })
    }
}

/// A whole number; text too, since a variable's value is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a whole number that is not negative")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(from)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text
                .parse()
                .map(Self)
                .map_err(|_| serde::de::Error::custom("expected a whole number that is not negative")),
        }
    }
}

/// A mirror that stands in [`SECTIONS`].
pub(super) trait Section: DeserializeOwned {}

/// Declares the sections: where each stands and what mirrors it. Only these can be opened, so the
/// list is complete.
macro_rules! sections {
    ($($path:literal => $mirror:ident { $($key:ident: $type:ty,)* })*) => {
        $(
            #[derive(Debug, Default, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub(super) struct $mirror { $(pub(super) $key: Piece<$type>,)* }

            impl Section for $mirror {}
        )*

        /// Every section with its keys; `[]` stands for an item, `*` for a chosen name.
        static SECTIONS: &[(&str, fn() -> &'static [&'static str])] = &[$(($path, keys::<$mirror>),)*];
    };
}

sections! {
    "" => ConfigFile {
        public_url: String,
        listen: Value,
        admin: Value,
        facilitator: Value,
        nano: Value,
        challenge: Value,
        settlement: Value,
        sweep: Value,
        store: Value,
        upstreams: Value,
        routes: Vec<Value>,
        unmatched: Value,
        discovery: Value,
        cors: Value,
        payment_identifiers: Value,
        limits: Value,
    }
    "listen" => ListenFile {
        http: String,
        tls: Value,
    }
    "listen.tls" => TlsFile {
        address: String,
        certificate: String,
        key: String,
    }
    "admin" => AdminFile {
        listen: String,
    }
    "facilitator" => FacilitatorFile {
        listen: String,
        token_file: String,
    }
    "nano" => NanoFile {
        nodes: Vec<Value>,
        quorum: Count,
        websocket: Value,
        ca_file: String,
        pool: Value,
        treasury: String,
        mechanisms: Vec<Value>,
        work: Value,
    }
    "nano.nodes[]" => NodeFile {
        url: String,
        timeout: String,
        trusted: bool,
    }
    "nano.pool" => PoolFile {
        seed_file: String,
        size: Count,
        addresses_file: String,
        address: String,
    }
    "nano.work" => WorkFile {
        send: String,
        receive: String,
        optional: Value,
    }
    "nano.work.optional" => WorkServerFile {
        server: String,
        timeout: String,
        at_once: Count,
        waiting: Count,
        per_client: Count,
    }
    "challenge" => ChallengeFile {
        lifetime: String,
        key_file: String,
        previous_key_file: String,
    }
    "settlement" => SettlementFile {
        wait: String,
        poll: String,
    }
    "sweep" => SweepFile {
        every: String,
        minimum: String,
        representative: String,
        work_server: String,
    }
    "store" => StoreFile {
        path: String,
        free_space: Value,
        postgres: String,
        password_file: String,
        ca_file: String,
        connections: Count,
        allow_unsafe: bool,
    }
    "upstreams.*" => UpstreamFile {
        url: String,
        urls: Vec<Value>,
        timeout: String,
        connect_timeout: String,
        health: Value,
        host_header: String,
    }
    "upstreams.*.health" => HealthFile {
        path: String,
        every: String,
    }
    "routes[]" => RouteFile {
        r#match: String,
        name: String,
        upstream: String,
        price: String,
        free: bool,
        grants: Value,
        description: String,
        mime_type: String,
        hidden: bool,
        charge_on: String,
        metering: String,
        payment_identifier: String,
        mechanisms: Vec<Value>,
        case_sensitive: bool,
        mcp: Value,
    }
    "routes[].mcp" => McpFile {
        body: Value,
        methods: Value,
        tools: Value,
        otherwise: String,
    }
    "routes[].grants" => GrantsFile {
        requests: Count,
        within: String,
    }
    "unmatched" => UnmatchedFile {
        upstream: String,
        free: bool,
    }
    "discovery" => DiscoveryFile {
        x402: bool,
        openapi: bool,
        llms: bool,
        title: String,
        description: String,
        contact: String,
    }
    "cors" => CorsFile {
        origins: Value,
    }
    "payment_identifiers" => PaymentIdentifiersFile {
        keep: String,
        keep_answers: String,
        largest_answer: Value,
    }
    "limits" => LimitsFile {
        drained_body: Value,
        capabilities_cached: Count,
        pending_settlements: Count,
        lookups_per_client: Count,
        idle_connection: String,
        bodies: Value,
        body_time: String,
    }
}

/// Every key the configuration knows, as a path: `nano.pool.size`, `upstreams.*.url`,
/// `routes[].price`.
#[must_use]
pub fn known_keys() -> Vec<String> {
    SECTIONS
        .iter()
        .flat_map(|(path, keys)| keys().iter().map(move |key| super::document::below(path, key)))
        .collect()
}

/// The keys of a mirror: the fields that serde looks for.
pub(super) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // It always fails: the names are all that is wanted of it.
    drop(T::deserialize(Names(&mut found)));
    found
}

/// A deserializer that notes which fields are asked for and gives none.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("only the names are read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("only the names are read"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
