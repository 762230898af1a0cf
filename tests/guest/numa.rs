//! On which node memory lies and threads run, from procfs.

use crate::nic::read;
use std::collections::BTreeMap;

/// The kernel's name for shared memory without a file, such as the frames of AF_XDP. Pages of files
/// (the program, its libraries) are on the node where they were read first.
const SHARED_MEMORY: [&str; 2] = ["file=/dev/zero", "file=/anon_hugepage"];

/// The pages of a process by node, in mappings of at least `least` pages: the frames, and not the
/// small mappings of the allocator.
pub(crate) fn large_mappings(pid: &str, least: u64) -> Result<BTreeMap<u32, u64>, String> {
    let maps = read(&format!("/proc/{pid}/numa_maps"))?;
    let mut total = BTreeMap::new();
    for line in maps.lines() {
        if line.contains(" file=") && !SHARED_MEMORY.iter().any(|name| line.contains(name)) {
            continue;
        }
        let pages = pages_by_node(line);
        if pages.iter().map(|(_, count)| count).sum::<u64>() >= least {
            for (node, count) in pages {
                *total.entry(node).or_default() += count;
            }
        }
    }
    Ok(total)
}

/// `7f00... default anon=512 dirty=512 N1=512 kernelpagesize_kB=4` is 512 pages on node 1; counted
/// in pages of 4 KiB whatever their size.
fn pages_by_node(line: &str) -> Vec<(u32, u64)> {
    let value = |word: &str, key: &str| word.strip_prefix(key)?.parse::<u64>().ok();
    let page_kib = line.split(' ').find_map(|word| value(word, "kernelpagesize_kB=")).unwrap_or(4);
    line.split(' ')
        .filter_map(|word| word.strip_prefix('N')?.split_once('='))
        .filter_map(|(node, count)| Some((node.parse().ok()?, count.parse::<u64>().ok()?)))
        .map(|(node, count)| (node, count * page_kib / 4))
        .collect()
}
