//! How much memory this process may use: the least of what the machine has and what its control groups and limits allow.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::config::value::Size;

/// A limit, and what sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub bytes: u64,
    pub set_by: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Size(self.bytes), self.set_by)
    }
}

impl Machine {
    /// Of this process. Where nothing can be read nothing is known to be exceeded.
    pub fn find() -> Machine {
        let limits = [(Resource::As, "RLIMIT_AS"), (Resource::Data, "RLIMIT_DATA")];
        let limits = limits.map(|(resource, name)| (getrlimit(resource).current, name));
        Machine::below(Path::new("/"), &limits)
    }

    /// As the files below `root` and the limits of the process say.
    fn below(root: &Path, limits: &[(Option<u64>, &str)]) -> Machine {
        let machine = fs::read_to_string(root.join("proc/meminfo"))
            .ok()
            .and_then(|text| total_of_meminfo(&text))
            .map(|bytes| Machine { bytes, set_by: "memory of the machine".into() });
        let limits = limits
            .iter()
            .filter_map(|&(limit, name)| limit.map(|bytes| Machine { bytes, set_by: name.into() }));
        let all = machine.into_iter().chain(groups(root)).chain(limits);
        // The first of equals: a group without a limit of its own repeats what holds anyway.
        all.min_by_key(|machine| machine.bytes)
            .unwrap_or(Machine { bytes: u64::MAX, set_by: "no limit is known".into() })
    }
}

/// The limits of this process' control groups and of all above them: each holds for what is below it.
fn groups(root: &Path) -> Vec<Machine> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let mounts = read("proc/self/mountinfo");
    let mut found = Vec::new();
    for line in read("proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let file = match controllers {
            "" => "memory.max",
            names if names.split(',').any(|name| name == "memory") => "memory.limit_in_bytes",
            _ => continue,
        };
        let Some(mount) = mount_of(&mounts, controllers.is_empty()) else { continue };
        let top = root.join(mount.point.trim_start_matches('/'));
        // Of a group outside of what is mounted here, only the mounted part can be read.
        let below = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or("");
        let below = if below.split('/').any(|part| part == "..") { "" } else { below.trim_matches('/') };
        let mut at: PathBuf = top.join(below);
        loop {
            if let Some(bytes) =
                fs::read_to_string(at.join(file)).ok().and_then(|text| text.trim().parse().ok())
            {
                let name = at.strip_prefix(&top).unwrap_or(&at).display().to_string();
                found.push(Machine { bytes, set_by: format!("{file} of control group /{name}") });
            }
            if at == top || !at.pop() {
                break;
            }
        }
    }
    found
}

/// Where a hierarchy of control groups is mounted, and which of its directories is there.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

/// The mount of control groups of version 2, or of version 1's memory controller (proc(5), mountinfo).
fn mount_of(mounts: &str, unified: bool) -> Option<Mount<'_>> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1).unwrap_or(""));
        let is_it = match unified {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        };
        is_it.then_some(Mount { root, point })
    })
}

/// The `MemTotal` line of proc(5)'s meminfo, which counts in KiB and calls them kB.
fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      34 32 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

    fn found(files: &[(&str, &str)], limits: &[(Option<u64>, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [("proc/meminfo", "MemTotal: 1000 kB\n")].iter().chain(files) {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Machine::below(root.path(), limits)
    }

    #[test]
    fn the_machine_bounds_where_nothing_else_does() {
        assert_eq!(found(&[], &[]).bytes, 1_024_000);
        let unlimited = [
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ];
        let machine = found(&unlimited, &[(None, "RLIMIT_AS")]);
        assert_eq!(machine.to_string(), "1000.0 KiB (memory of the machine)");
        assert!(Machine::find().bytes > 1 << 20);
    }

    #[test]
    fn a_group_of_version_2_is_bound_by_itself_and_by_all_above_it() {
        let files = |own, slice| {
            [
                ("proc/self/mountinfo", V2),
                ("proc/self/cgroup", "0::/system.slice/trunkline.service\n"),
                ("sys/fs/cgroup/system.slice/trunkline.service/memory.max", own),
                ("sys/fs/cgroup/system.slice/memory.max", slice),
            ]
        };
        let own = found(&files("500000\n", "max\n"), &[]);
        assert_eq!(own.bytes, 500_000);
        assert_eq!(own.set_by, "memory.max of control group /system.slice/trunkline.service");
        let slice = found(&files("500000\n", "400000\n"), &[]);
        assert_eq!(
            (slice.bytes, slice.set_by.as_str()),
            (400_000, "memory.max of control group /system.slice")
        );
    }

    #[test]
    fn a_group_of_version_1_beside_an_empty_version_2() {
        let mounts = format!("{V1}35 32 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n");
        let files = [
            ("proc/self/mountinfo", mounts.as_str()),
            ("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "300000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let machine = found(&files, &[]);
        assert_eq!(machine.bytes, 300_000);
        assert_eq!(machine.set_by, "memory.limit_in_bytes of control group /docker/abc");
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_mounts_top() {
        let files = [
            (
                "proc/self/mountinfo",
                "33 32 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            ),
            ("proc/self/cgroup", "4:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "200000\n"),
        ];
        assert_eq!(found(&files, &[]).bytes, 200_000);
        let outside = [
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/../../other\n"),
            ("sys/fs/cgroup/memory.max", "100000\n"),
        ];
        assert_eq!(found(&outside, &[]).bytes, 100_000);
    }

    #[test]
    fn limits_of_the_process_count() {
        let limits = [(Some(90_000), "RLIMIT_AS"), (Some(80_000), "RLIMIT_DATA")];
        assert_eq!(found(&[], &limits), Machine { bytes: 80_000, set_by: "RLIMIT_DATA".into() });
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(total_of_meminfo("MemTotal:       24683520 kB\nMemFree: 1 kB\n"), Some(24683520 * 1024));
        for odd in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(total_of_meminfo(odd), None);
        }
    }
}
