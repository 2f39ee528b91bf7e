//! What the process can still do once its configuration is read: files by Landlock, system calls by seccomp.
//!
//! Both hold for the calling thread and all that it starts from then on, programs included: they are entered before any other
//! thread. Landlock does not limit programs that are started: whatever one is, it is in the same sandbox. It does not limit the
//! network either: backends, engines and listeners change with the configuration.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::base::address::ListenAddress;
use crate::config::Config;

/// The newest rights that are asked for. An older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;

/// What programs, resolvers of names and authorities of TLS read on any machine. What is not there is left out.
const SYSTEM: [&str; 17] = [
    "/etc",
    "/usr",
    "/opt",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/nix/store",
    "/proc",
    "/sys",
    "/dev",
    // Where /etc/resolv.conf points to.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/connman",
];

/// What was entered, and what was not, to be logged when that can be done.
#[derive(Debug, Default)]
pub struct Entered {
    pub done: Vec<String>,
    pub problems: Vec<String>,
}

impl Entered {
    pub fn say(&self) {
        self.done.iter().for_each(|line| tracing::info!("sandbox: {line}"));
        self.problems.iter().for_each(|line| tracing::warn!("sandbox: {line}"));
    }
}

/// Gives up what the node does not need. `file` is what its configuration was read from.
pub fn enter(config: &Config, file: Option<&Path>) -> Entered {
    let settings = &config.sandbox;
    let mut entered = Entered::default();
    if settings.landlock {
        let reach = SandboxReach::new(config, file);
        match restrict(&reach) {
            Ok(RulesetStatus::NotEnforced) => {
                entered.problems.push("this kernel has no Landlock: files are not restricted".into());
            }
            Ok(_) => entered.done.push(format!("files by Landlock: {reach}")),
            // One of a chain of upgrades is in the sandboxes of all before it: the kernel keeps sixteen.
            Err(error) => entered.problems.push(format!("Landlock: {error}: files are restricted as before")),
        }
    }
    if settings.seccomp {
        match refuse_calls() {
            Ok(()) => entered.done.push("system calls that no node makes are refused".into()),
            Err(error) => entered.problems.push(format!("seccomp: {error}")),
        }
    }
    entered
}

/// Which files are in reach.
#[derive(Debug, PartialEq, Eq)]
struct SandboxReach {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    /// Where unix sockets come and go.
    sockets: Vec<PathBuf>,
}

impl std::fmt::Display for SandboxReach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = |paths: &[PathBuf]| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") }
        };
        let own: Vec<PathBuf> = self
            .read
            .iter()
            .filter(|path| !SYSTEM.iter().any(|system| path.starts_with(system)))
            .cloned()
            .collect();
        write!(f, "beside the system's, {} may be read, {} written", all(&own), all(&self.write))
    }
}

impl SandboxReach {
    fn new(config: &Config, file: Option<&Path>) -> SandboxReach {
        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        let binary = env::current_exe().ok();
        let authorities = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let named = config.named_files();
        let files = named.iter().map(PathBuf::as_path).chain(file).chain(binary.as_deref());
        for file in files.chain(authorities.as_deref()) {
            read.push(folder_or_file(file));
            // Behind links, which is where renewed certificates and mounted configurations lie.
            if let Ok(behind) = file.canonicalize() {
                read.push(folder_or_file(&behind));
            }
        }
        read.extend(env::var_os("SSL_CERT_DIR").map(PathBuf::from));
        read.extend(config.sandbox.read.iter().map(PathBuf::from));
        let mut write: Vec<PathBuf> = config.sandbox.write.iter().map(PathBuf::from).collect();
        write.extend(config.store.path.as_ref().map(PathBuf::from));
        let listeners = config.listeners();
        let sockets = listeners.iter().filter_map(|listener| match &listener.address {
            ListenAddress::Unix(path) => path.parent().map(Path::to_owned),
            ListenAddress::Tcp(_) => None,
        });
        let mut sockets: Vec<PathBuf> = sockets.collect();
        for paths in [&mut read, &mut write, &mut sockets] {
            paths.sort_unstable();
            paths.dedup();
        }
        SandboxReach { read, write, sockets }
    }
}

/// The folder of a file: a file that is replaced is another one, under the same name. Of a file in the root, itself alone.
fn folder_or_file(file: &Path) -> PathBuf {
    match file.parent() {
        None => file.to_owned(),
        Some(root) if root == Path::new("/") => file.to_owned(),
        Some(here) if here == Path::new("") => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
    }
}

fn restrict(reach: &SandboxReach) -> Result<RulesetStatus, RulesetError> {
    // The store makes its folder where there is none: rules are for what is there.
    for folder in &reach.write {
        use std::os::unix::fs::DirBuilderExt as _;
        // What is wrong with it the store says.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    }
    let all = AccessFs::from_all(NEWEST) & !BitFlags::from(AccessFs::Execute);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let sockets = read | AccessFs::MakeSock | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(all)?
        // Processes of others are not signalled. One that is started by this one is.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(&reach.sockets, sockets))?
        .add_rules(path_beneath_rules(&reach.write, all))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// What attackers want of a kernel and no node does. All that may be needed in later versions of libraries stays allowed: a list of
/// what is allowed would end a node on the day on which a library makes another call.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

fn refuse_calls() -> Result<(), String> {
    let rules: BTreeMap<i64, Vec<_>> = REFUSED.iter().map(|&number| (number, Vec::new())).collect();
    let arch = env::consts::ARCH.try_into().map_err(|error| format!("{error:?}"))?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch);
    let program: BpfProgram = filter
        .and_then(SeccompFilter::try_into)
        .map_err(|error: seccompiler::BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn configured(store: &Path, socket: &Path) -> Config {
        let mut config = Config::default();
        config.store.path = Some(store.display().to_string());
        config.listen_tls = None;
        config.sandbox.seccomp = true;
        let mut listener = crate::config::ListenerEntry::default();
        listener.options.address = Some(ListenAddress::Unix(socket.into()));
        config.listener.push(listener);
        config
    }

    /// In a thread: the process of the tests is to stay as it is. The kernel of the tests has Landlock, or nothing is tested.
    #[test]
    fn what_a_node_needs_is_in_reach_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        for name in ["etc", "other", "run"] {
            fs::create_dir(of(name)).unwrap();
        }
        let (file, secret) = (of("etc/trunkline.toml"), of("other/secret"));
        fs::write(&file, "one").unwrap();
        fs::write(&secret, "hush").unwrap();
        let config = configured(&of("store/of/it"), &of("run/client.sock"));
        let (etc, store) = (of("etc"), of("store/of/it"));
        let (socket, elsewhere) = (of("run/client.sock"), of("other/made"));
        let replacement = etc.join("new");
        fs::write(&replacement, "two").unwrap();
        let (entered, go_on) = std::sync::mpsc::sync_channel(1);
        let (replaced, wait) = std::sync::mpsc::sync_channel(1);
        let sandboxed = thread::spawn(move || {
            let said = enter(&config, Some(&file));
            assert!(said.problems.is_empty(), "{said:?}");
            assert_eq!(said.done.len(), 2, "{said:?}");
            entered.send(()).unwrap();
            wait.recv().unwrap();
            let denied = |result: std::io::Result<()>| {
                result.err().map(|error| error.kind()) == Some(std::io::ErrorKind::PermissionDenied)
            };
            assert_eq!(fs::read_to_string(&file).unwrap(), "two", "a file that was put in its place");
            assert!(denied(fs::read(&secret).map(drop)), "a file beside");
            assert!(denied(fs::write(&file, "three")), "the configuration is not written");
            assert!(denied(fs::write(&elsewhere, "x")));
            fs::write(store.join("1.seg"), "kept").unwrap();
            fs::remove_file(store.join("1.seg")).unwrap();
            drop(UnixListener::bind(&socket).unwrap());
            fs::remove_file(&socket).unwrap();
            assert!(denied(fs::write(socket.with_extension("txt"), "x")), "sockets alone");
            // Root may do it, as long as nothing is refused.
            assert!(denied(std::os::unix::fs::chroot("/")));
            // What is started is in it as well.
            let sh = |script: &str| {
                std::process::Command::new("sh").args(["-c", script]).status().unwrap().success()
            };
            assert!(sh("exit 0"), "programs start");
            assert!(!sh(&format!("cat {}", secret.display())));
        });
        go_on.recv().unwrap();
        fs::rename(replacement, etc.join("trunkline.toml")).unwrap();
        replaced.send(()).unwrap();
        sandboxed.join().unwrap();
    }

    #[test]
    fn a_folder_is_in_reach_for_a_file_but_never_the_whole_machine() {
        let reach = |path: &str| folder_or_file(Path::new(path)).display().to_string();
        assert_eq!(reach("/etc/trunkline/trunkline.toml"), "/etc/trunkline");
        assert_eq!(reach("/trunkline.toml"), "/trunkline.toml");
        assert_eq!(reach("trunkline.toml"), ".");
        assert_eq!(reach("conf/trunkline.toml"), "conf");
    }
}
