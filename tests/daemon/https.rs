//! Backends behind https with a certificate of an authority of one's own: hook calls, events, tunnels, published keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{DEADLINE, Daemon, Driver};
use crate::socket::Socket;

/// An authority, and the file that names it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority { issuer: Issuer::new(params, key), directory };
        std::fs::write(authority.file(), certificate.pem()).expect("the file is written");
        authority
    }

    fn file(&self) -> String {
        self.directory.path().join("ca.pem").to_str().expect("UTF-8").to_string()
    }

    /// What a server of that name needs.
    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_string()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("they belong together");
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    }
}

/// What each path was asked, with the version of HTTP.
type Asked = Arc<Mutex<BTreeMap<String, Vec<(Version, Value)>>>>;

/// A backend of everything that can be killed and started again at its address.
struct Backend {
    tls: TlsAcceptor,
    address: SocketAddr,
    asked: Asked,
    runtime: Option<Runtime>,
}

impl Backend {
    fn start(tls: TlsAcceptor) -> Backend {
        let address = ([127, 0, 0, 1], 0).into();
        let mut backend = Backend { tls, address, asked: Asked::default(), runtime: None };
        backend.restart();
        backend
    }

    fn restart(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("its address");
        self.address = listener.local_addr().expect("an address");
        let app = Router::new().fallback(answer).with_state(Arc::clone(&self.asked));
        let listener = Listener { listener, tls: self.tls.clone() };
        runtime.spawn(async move { axum::serve(listener, app).await });
        self.runtime = Some(runtime);
    }

    /// Cuts every connection off.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    fn asked(&self, path: &str) -> Vec<(Version, Value)> {
        self.asked.lock().expect("no test panics inside").get(path).cloned().unwrap_or_default()
    }

    /// The tables of a daemon that asks it for everything, trusts `ca_file`, and gives up after `timeout`.
    fn tables(&self, ca_file: &str, timeout: &str) -> String {
        let at = format!("https://{}", self.address);
        let ca = format!("ca_file = \"{ca_file}\"");
        format!(
            "[client.subscription_token]\njwks_url = \"{at}/jwks\"\njwks_{ca}\n\
             [events]\ntypes = [\"connected\"]\nendpoint = \"{at}/events\"\n{ca}\n\
             [[hook]]\nname = \"b\"\nendpoint = \"{at}/hook\"\ntimeout = \"{timeout}\"\nprobe_interval = \"20ms\"\n{ca}\n\
             [[tunnel]]\nname = \"t\"\nendpoint = \"{at}/tunnel\"\ntimeout = \"{timeout}\"\n{ca}\n"
        )
    }

    fn asking(&self, driver: Driver, authority: &Authority, timeout: &str) -> Daemon {
        let tables = self.tables(&authority.file(), timeout);
        Daemon::start_written(driver, &[], &[("CLIENT_RPC_HOOK", "b")], &tables)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Listener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else { continue };
            // One that does not trust us leaves in the middle of it.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn answer(
    State(asked): State<Asked>,
    version: Version,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let said = serde_json::from_slice(&body).unwrap_or(Value::Null);
    asked
        .lock()
        .expect("no test panics inside")
        .entry(uri.path().to_string())
        .or_default()
        .push((version, said));
    match uri.path() {
        "/hook" => json!({"result": {"data": "well"}}).to_string().into_response(),
        "/jwks" => {
            let pem = include_str!("../keys/ed25519.pem");
            let der = STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>());
            // The key stands at the end of what says of which kind it is (RFC 8410 section 4).
            let key = URL_SAFE_NO_PAD.encode(&der.expect("base64")[12..]);
            let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": key}]});
            keys.to_string().into_response()
        }
        "/tunnel" if headers["x-trunkline-type"] == "message" => {
            ([("content-type", "text/plain")], "heard").into_response()
        }
        "/tunnel" | "/events" => StatusCode::OK.into_response(),
        path => panic!("nobody asks for {path}"),
    }
}

fn said(socket: &mut Socket, command: Value) -> Value {
    socket.send(Frame::text(&command.to_string()));
    serde_json::from_slice(&socket.recv().expect("an answer").payload).expect("JSON")
}

fn connected(daemon: &Daemon) -> Socket {
    let mut socket = Socket::open(daemon, "/connection/websocket");
    let answer = said(&mut socket, json!({"id": 1, "connect": {}}));
    assert!(answer["connect"].is_object(), "{answer}");
    socket
}

fn rpc(socket: &mut Socket) -> Value {
    said(socket, json!({"id": 2, "rpc": {"method": "m", "data": 1}}))
}

/// Asks until the answer satisfies `wanted`.
fn until(what: &str, mut ask: impl FnMut() -> Value, wanted: impl Fn(&Value) -> bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = ask();
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {answer}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A subscription token for channel `closed:c`, signed with the key that the backend publishes.
fn subscription_token() -> String {
    let key = pem::parse(include_str!("../keys/ed25519.private.pem")).expect("PEM");
    let key = ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.contents()).expect("a key");
    let encode = |part: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
    let header = encode(br#"{"alg":"EdDSA","kid":"k"}"#);
    let signed = format!("{header}.{}", encode(br#"{"sub":"","channel":"closed:c"}"#));
    format!("{signed}.{}", encode(key.sign(signed.as_bytes()).as_ref()))
}

on_both_drivers! {
    fn everything_that_is_asked_of_a_backend_is_asked_over_https_of_the_authority_named(driver: Driver) {
        let authority = Authority::new();
        let backend = Backend::start(authority.server("127.0.0.1"));
        let daemon = backend.asking(driver, &authority, "20s");
        let mut socket = connected(&daemon);
        assert_eq!(rpc(&mut socket)["rpc"]["data"], "well");
        let (version, hook_call) = backend.asked("/hook").remove(0);
        assert_eq!((version, &hook_call["data"]), (Version::HTTP_2, &json!(1)), "both sides agreed on it");

        let mut tunnel = Socket::open(&daemon, "/tunnel/t");
        tunnel.send(Frame::text("hello"));
        tunnel.expect(&Frame::text("heard"));

        let token = subscription_token();
        let subscribe = json!({"id": 3, "subscribe": {"channel": "closed:c", "token": token}});
        until("the keys are fetched", || said(&mut socket, subscribe.clone()), |got| got["error"]["code"] != 100);
        let again = said(&mut socket, subscribe);
        assert_eq!(again["error"]["code"], 105, "{again}");

        let told = || backend.asked("/events").first().map_or(Value::Null, |(_, batch)| batch.clone());
        until("events are told", told, |batch| batch["events"][0]["type"] == "connected");
    }

    fn a_backend_that_is_gone_is_asked_again_when_it_is_back(driver: Driver) {
        let authority = Authority::new();
        let mut backend = Backend::start(authority.server("127.0.0.1"));
        let daemon = backend.asking(driver, &authority, "20s");
        let mut socket = connected(&daemon);
        assert_eq!(rpc(&mut socket)["rpc"]["data"], "well");
        for _ in 0..2 {
            backend.kill();
            // More than it takes for the backend to be taken for down.
            for _ in 0..50 {
                let refused = rpc(&mut socket);
                assert_eq!((&refused["error"]["code"], &refused["error"]["temporary"]), (&json!(100), &json!(true)), "{refused}");
            }
            backend.restart();
            until("it is asked again", || rpc(&mut socket), |answer| answer["rpc"]["data"] == "well");
        }
    }

    fn a_backend_of_another_authority_or_name_is_told_nothing(driver: Driver) {
        let (authority, other) = (Authority::new(), Authority::new());
        for tls in [other.server("127.0.0.1"), authority.server("localhost")] {
            let backend = Backend::start(tls);
            let daemon = backend.asking(driver, &authority, "200ms");
            let mut socket = connected(&daemon);
            assert_eq!(rpc(&mut socket)["error"]["code"], 100);
            let mut tunnel = Socket::raw(&daemon);
            tunnel.send_bytes(crate::socket::upgrade_request("/tunnel/t", "").as_bytes());
            assert!(tunnel.recv_head().starts_with("HTTP/1.1 503 "));
            let token = subscription_token();
            let subscribe = json!({"id": 3, "subscribe": {"channel": "closed:c", "token": token}});
            assert_eq!(said(&mut socket, subscribe)["error"]["code"], 100, "its keys cannot be fetched");
            assert!(backend.asked.lock().expect("no test panics inside").is_empty());
        }
    }
}
