//! The smallest Pingora proxy: it passes every request to one upstream and looks at nothing. Faregate cannot cost
//! less; `benches/proxy/run` measures both.
//!
//! Usage: `bare LISTEN UPSTREAM`, an address and a port each.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use faregate::listen;
use pingora::prelude::{HttpPeer, ProxyHttp, Session};
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::watch;

// The gateway's allocator.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

// The gateway's runtime and accept loop, so that what differs is the gateway.
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(at), Some(upstream), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: bare LISTEN UPSTREAM".into());
    };
    let listener = TcpListener::bind(at.parse::<SocketAddr>()?).await?;
    let app =
        pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), Bare { upstream: upstream.parse()? });
    let (_running, shutdown) = watch::channel(false);
    listen::serve(listener, Arc::new(app), shutdown).await;
    Ok(())
}
