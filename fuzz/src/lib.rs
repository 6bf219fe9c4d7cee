//! A controller that answers whatever it is told to, for targets that put bytes through the real client.

use std::{cell::RefCell, future::Future, rc::Rc};

use fettle::clients::{
    aap::{Aap, Credentials, Gate, Secret, Settings},
    http::UrlPolicy,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::LocalSet,
};

/// The token that the client sends.
pub const TOKEN: &str = "tok-3f2a9c";

/// Status and body for a path.
type Script = dyn Fn(&str) -> (u16, Vec<u8>);

/// Client and controller in one thread. It lives as long as the process.
pub struct Loopback {
    runtime: Runtime,
    tasks: LocalSet,
    script: Rc<RefCell<Rc<Script>>>,
    aap: Aap,
}

impl Loopback {
    /// Starts the controller.
    pub fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = LocalSet::new();
        let script: Rc<RefCell<Rc<Script>>> = Rc::new(RefCell::new(Rc::new(|_| (500, vec![]))));
        let shared = script.clone();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tasks.spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, shared.clone()));
            }
        });
        let aap = Aap::new(Settings {
            url,
            api_prefix: Some("/api/v2".into()),
            credentials: Credentials::Token(Secret::new(TOKEN)),
            policy: UrlPolicy { allow_plain_http: true, allow_loopback: true, ..UrlPolicy::default() },
            ca_bundle: None,
            gate: Gate::default(),
            observer: None,
        })
        .expect("a client");
        Self { runtime, tasks, script, aap }
    }

    /// Makes calls while the controller answers as `script` says.
    pub fn call<F: Future>(&self, script: impl Fn(&str) -> (u16, Vec<u8>) + 'static, calls: impl FnOnce(Aap) -> F) -> F::Output {
        *self.script.borrow_mut() = Rc::new(script);
        self.tasks.block_on(&self.runtime, calls(self.aap.clone()))
    }
}

/// Answers requests until the other side goes.
async fn serve(mut stream: TcpStream, script: Rc<RefCell<Rc<Script>>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").and_then(|n| n.trim().parse::<usize>().ok()))
            .unwrap_or(0);
        while buffer.len() < end + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        buffer.drain(..end + length);
        let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        let script = script.borrow().clone();
        let (status, body) = script(&path);
        let mut answer = format!("HTTP/1.1 {status} x\r\ndate: Sat, 21 Nov 2026 08:00:00 GMT\r\n").into_bytes();
        if status != 204 && status != 304 {
            answer.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
            answer.extend(body);
        } else {
            answer.extend(b"\r\n");
        }
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}
