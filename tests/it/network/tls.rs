//! Nodes behind TLS, with the operator's own certificate.

use std::sync::Arc;
use std::time::Duration;

use faregate::devnet::{Devnet, SocketDialect};
use faregate::ledger::node::{Authorities, NodeClient, NodeEndpoint, NodeLedger, SocketEndpoint};
use faregate::ledger::{Ledger, Sighting};
use faregate::nano::Raw;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::socket::with_socket;
use super::{WAIT, endpoint, key};
use crate::rig::eventually;

/// TLS in front of a plain address.
pub(crate) struct Front {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A self-signed certificate for `localhost`, and its key.
pub(crate) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into())
}

pub(crate) async fn front(
    to: String,
    certificate: &CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
) -> Front {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.clone_key())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    // The address that `localhost` resolves to first.
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            let (outer, _) = listener.accept().await.unwrap();
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate hangs up.
                let Ok(mut outer) = acceptor.accept(outer).await else { return };
                let mut inner = TcpStream::connect(to).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    Front { port, task }
}

/// A subscribed ledger over `https` and `wss` that trusts `authorities`.
async fn hearing(
    rpc: &Front,
    socket: &Front,
    authorities: &Authorities,
) -> (Arc<NodeLedger>, watch::Sender<bool>) {
    let endpoint = endpoint(&format!("https://localhost:{}", rpc.port), true);
    let endpoint = NodeEndpoint { authorities: Arc::clone(authorities), ..endpoint };
    let socket = SocketEndpoint::from_url(format!("wss://localhost:{}", socket.port).parse().unwrap());
    let socket = socket.unwrap().believing(Arc::clone(authorities));
    let ledger = NodeLedger::new(NodeClient::new(vec![endpoint]).unwrap());
    let ledger = Arc::new(ledger.hearing(vec![socket]));
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(Arc::clone(&ledger).listen([key(99).account()].into(), shutdown));
    ledger.probe().await;
    (ledger, stop)
}

#[tokio::test]
async fn confirmations_come_over_tls_only_from_a_trusted_certificate() {
    let devnet = Devnet::start(with_socket(SocketDialect::Reference, Duration::ZERO)).await.unwrap();
    let (certificate, secret) = certificate();
    let rpc = front(devnet.address().to_string(), &certificate, &secret).await;
    let websocket = devnet.websocket_url().unwrap().trim_start_matches("ws://").to_owned();
    let socket = front(websocket, &certificate, &secret).await;

    let ours: Authorities = [certificate.clone()].into();
    let (ledger, _stop) = hearing(&rpc, &socket, &ours).await;
    assert!(ledger.is_healthy());
    eventually("subscribed", || async { ledger.sockets()[0].connected }).await;
    devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
    devnet.receive_all(&key(1)).unwrap();
    let block = devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
    let mut heard = ledger.sends_heard();
    ledger.publish_send(&block).await.unwrap();
    assert!(matches!(ledger.await_confirmation(block.hash(), WAIT).await, Ok(Sighting::Confirmed(_))));
    assert_eq!(heard.recv().await.unwrap(), (block.hash(), key(99).account()));

    // With the usual web authorities alone, or with another one, the node is not trusted.
    let (other, _) = self::certificate();
    for authorities in [Authorities::default(), [other].into()] {
        let (ledger, _stop) = hearing(&rpc, &socket, &authorities).await;
        assert!(!ledger.is_healthy());
        // Long enough for several tries.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!ledger.sockets()[0].connected);
    }
}
