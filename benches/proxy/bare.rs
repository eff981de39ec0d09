//! The smallest Pingora proxy: it passes every request to one upstream and looks at nothing. Faregate cannot cost
//! less; `benches/proxy/run` measures both.
//!
//! Usage: `bare LISTEN UPSTREAM [RUNTIME]`, an address and a port each. RUNTIME is how threads share the work, for
//! `benches/proxy/runtime`: `shared:N`, one runtime of N threads that take work from each other (as the gateway has; the
//! default, with a thread for each core); `own:N`, N runtimes of one thread, each with its own listener and its own
//! connections to the upstream.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use faregate::listen;
use pingora::prelude::{HttpPeer, ProxyHttp, Session};
use pingora::server::configuration::ServerConf;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
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

/// How threads share the work.
#[derive(Clone, Copy)]
enum Threads {
    Shared(Option<usize>),
    Own(usize),
}

impl Threads {
    fn read(text: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let Some(text) = text else { return Ok(Self::Shared(None)) };
        match text.split_once(':') {
            Some(("shared", count)) => Ok(Self::Shared(Some(count.parse()?))),
            Some(("own", count)) => Ok(Self::Own(count.parse()?)),
            _ => Err("RUNTIME is shared:N or own:N".into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (at, upstream, threads) = match arguments.as_slice() {
        [at, upstream] => (at, upstream, None),
        [at, upstream, threads] => (at, upstream, Some(threads.as_str())),
        _ => return Err("usage: bare LISTEN UPSTREAM [RUNTIME]".into()),
    };
    let (at, upstream) = (at.parse()?, upstream.parse()?);
    match Threads::read(threads)? {
        Threads::Shared(count) => {
            let mut runtime = Builder::new_multi_thread();
            if let Some(count) = count {
                runtime.worker_threads(count);
            }
            Ok(runtime.enable_all().build()?.block_on(serve(at, upstream))?)
        }
        Threads::Own(count) => {
            let runtimes: Vec<_> = (0..count)
                .map(|_| {
                    std::thread::spawn(move || {
                        Builder::new_current_thread().enable_all().build()?.block_on(serve(at, upstream))
                    })
                })
                .collect();
            for runtime in runtimes {
                runtime.join().map_err(|_| "a thread panicked")??;
            }
            Ok(())
        }
    }
}

// The gateway's accept loop, so that what differs is the gateway.
async fn serve(at: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // The kernel spreads connections over the listeners of an address.
    socket.set_reuseport(true)?;
    socket.bind(at)?;
    let listener = socket.listen(1024)?;
    let app = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), Bare { upstream });
    let (_running, shutdown) = watch::channel(false);
    listen::serve(listener, Arc::new(app), shutdown).await;
    Ok(())
}
