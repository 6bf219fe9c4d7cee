//! A way to the API server that fails on demand: it stands between a manager and the API server, with the certificate of the latter.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::World;

/// The API server, and where the relay listens.
const API_SERVER: &str = "10.88.0.1:6443";
const RELAY: &str = "10.88.0.1:7443";
/// The Service of the API server, as pods see it.
const SERVICE: &str = "10.96.0.1";

/// What it does to answers.
#[derive(Clone, Debug)]
enum Fault {
    /// The first answer to a request whose first line has all these words is replaced by 504: what was asked for is done.
    LoseAnswer(&'static [&'static str]),
    /// Answers to requests that were made before that moment, and whose first line has all words of one of these lists, vanish. The
    /// connections stay open.
    HalfOpen(&'static [&'static [&'static str]], Instant),
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    struck: Vec<String>,
}

/// The relay; it ends when it is dropped.
pub struct Relay {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Starts it, and leads the manager's pod through it: connections that are made from now on.
    pub async fn start(world: &World, pod: &str) -> Self {
        let pki = world.bed().join("pki");
        let (acceptor, connector) = (acceptor(&pki), connector(&pki));
        let listener = TcpListener::bind(RELAY).await.expect("an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                connections.spawn(converse(stream, acceptor.clone(), connector.clone(), Arc::clone(&shared)));
            }
        });
        let address = world.address(pod).await;
        let way = ["-s", &address, "-d", SERVICE, "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to-destination", RELAY];
        world.rule("nat", "PREROUTING", &way).await;
        Self { state, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The answer to the next request whose first line has all these words becomes 504.
    pub fn lose_answer(&self, words: &'static [&'static str]) {
        self.state().fault = Some(Fault::LoseAnswer(words));
    }

    /// Nothing comes any more on connections whose current request has all words of one of these lists.
    pub fn half_open(&self, lists: &'static [&'static [&'static str]]) {
        self.state().fault = Some(Fault::HalfOpen(lists, Instant::now()));
    }

    /// First lines of the requests whose answers were struck, once for each piece of an answer.
    pub fn struck(&self) -> Vec<String> {
        self.state().struck.clone()
    }
}

fn acceptor(pki: &Path) -> TlsAcceptor {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(pki.join("apiserver.crt")).expect("a certificate").map(|c| c.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key")).expect("a key");
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("a certificate that fits");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn connector(pki: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt")).expect("a certificate")).expect("an authority");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Passes one connection on. It speaks HTTP/1.1 without pipelining: a piece that begins like a request is one.
async fn converse(stream: TcpStream, acceptor: TlsAcceptor, connector: TlsConnector, state: Arc<Mutex<State>>) -> Option<()> {
    let client = acceptor.accept(stream).await.ok()?;
    let address: SocketAddr = API_SERVER.parse().ok()?;
    let server = connector.connect(ServerName::from(address.ip()), TcpStream::connect(address).await.ok()?).await.ok()?;
    let (mut asked, mut to_client) = tokio::io::split(client);
    let (mut answered, mut to_server) = tokio::io::split(server);
    let current = Mutex::new((String::new(), Instant::now()));
    let requests = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = asked.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            if let Some(line) = first_line(&piece[..length]) {
                *current.lock().unwrap() = (line, Instant::now());
            }
            to_server.write_all(&piece[..length]).await.ok()?;
        }
    };
    let answers = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = answered.read(&mut piece).await.ok().filter(|length| *length > 0)?;
            let (line, begun) = current.lock().unwrap().clone();
            match strike(&mut state.lock().unwrap(), &line, begun) {
                Verdict::Pass => {}
                Verdict::Vanish => continue,
                Verdict::Lose => break,
            }
            to_client.write_all(&piece[..length]).await.ok()?;
            to_client.flush().await.ok()?;
        }
        let gateway = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        to_client.write_all(gateway).await.ok()?;
        to_client.shutdown().await.ok()
    };
    tokio::select! {
        over = requests => over,
        over = answers => over,
    }
}

enum Verdict {
    Pass,
    Vanish,
    Lose,
}

fn strike(state: &mut State, line: &str, begun: Instant) -> Verdict {
    let has = |words: &[&str]| words.iter().all(|word| line.contains(word));
    let verdict = match &state.fault {
        Some(Fault::LoseAnswer(words)) if has(words) => Verdict::Lose,
        Some(Fault::HalfOpen(lists, since)) if begun < *since && lists.iter().any(|words| has(words)) => Verdict::Vanish,
        Some(Fault::LoseAnswer(_) | Fault::HalfOpen(..)) | None => return Verdict::Pass,
    };
    if matches!(verdict, Verdict::Lose) {
        state.fault = None;
    }
    state.struck.push(line.to_owned());
    verdict
}

/// The first line of a request.
fn first_line(piece: &[u8]) -> Option<String> {
    let end = piece.windows(2).position(|two| two == b"\r\n")?;
    let line = std::str::from_utf8(&piece[..end]).ok()?;
    line.ends_with(" HTTP/1.1").then(|| line.to_owned())
}
