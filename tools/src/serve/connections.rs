//! Connections: how many there may be, and how long a client may take for what it sends and reads.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use super::ServeOptions;

/// Bytes that the head of a request may have.
const MOST_HEAD_BYTES: usize = 64 << 10;

/// How long to wait when the system gives no more connections, as without free file descriptors.
const WAIT: Duration = Duration::from_millis(100);

/// Answers connections until `stop` is ready, then finishes those that have requests under way.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    options: &ServeOptions,
    stop: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(options.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // From the first wait for a head on: a connection that asks for nothing more is closed, too.
    http.timer(TokioTimer::new()).header_read_timeout(options.header_time).max_buf_size(MOST_HEAD_BYTES);
    tokio::pin!(stop);
    loop {
        // Beyond as many as there may be, connections wait in the system.
        let place = tokio::select! {
            place = Arc::clone(&room).acquire_owned() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("no connection: {error}");
                tokio::time::sleep(WAIT).await;
                continue;
            }
        };
        // A token is sent as it comes.
        _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(options.write_time));
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
