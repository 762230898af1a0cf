//! Which socket of a `SO_REUSEPORT` group gets a datagram.
//!
//! By default the kernel hashes the flow, so each flow keeps to one socket while the group
//! stays the same. With a NIC of several queues, whose interrupts go to one CPU each, it is
//! better to pick by the CPU that the datagram was received on: the worker that is pinned
//! there then gets what the NIC's own hash put there, and nothing changes cores. The program
//! is classic BPF, which needs no privilege:
//!
//! ```text
//! A = cpu
//! if A == cpu[0] return socket[0]
//! if A == cpu[1] return socket[1]
//! ...
//! return no socket: the kernel hashes the flow
//! ```

use libc::sock_filter;

/// `BPF_LD | BPF_W | BPF_ABS`: load a word, here one that the kernel makes up.
const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_CPU`: the address of "the current CPU".
const CPU: u32 = (-0x1000i32 + 36).cast_unsigned();
/// Larger than any group: the kernel falls back to the hash.
const NO_SOCKET: u32 = u32::MAX;

/// The most CPUs that one program tells apart: `BPF_MAXINSNS` is 4096, two for each.
pub(super) const MAX_STEERED_CPUS: usize = 2000;

const _: () = assert!(2 * MAX_STEERED_CPUS + 2 <= 4096, "the kernel takes the program");

/// One line of the steering table: what arrives on a CPU goes to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSteering {
    /// The CPU that the kernel received the datagram on.
    pub cpu: u32,
    /// The socket's place in the group: 0 is the one that was bound first.
    pub socket: u32,
}

/// The program for `table`.
pub(super) fn program(table: &[CpuSteering]) -> Vec<sock_filter> {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut program = vec![instruction(LOAD_WORD, 0, 0, CPU)];
    for line in table {
        program.push(instruction(JUMP_IF_EQUAL, 0, 1, line.cpu));
        program.push(instruction(RETURN, 0, 0, line.socket));
    }
    program.push(instruction(RETURN, 0, 0, NO_SOCKET));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the three instructions that the program consists of.
    fn run(program: &[sock_filter], cpu: u32) -> u32 {
        let (mut at, mut a) = (0, u32::MAX);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD_WORD => {
                    assert_eq!(i.k.cast_signed(), libc::SKF_AD_OFF + libc::SKF_AD_CPU);
                    a = cpu;
                }
                JUMP_IF_EQUAL => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn each_cpu_has_its_socket_and_others_have_none() {
        let table = [(4, 0), (6, 1), (0, 2), (5, 1)];
        let table = table.map(|(cpu, socket)| CpuSteering { cpu, socket });
        let program = program(&table);
        for line in table {
            assert_eq!(run(&program, line.cpu), line.socket);
        }
        for cpu in [1, 2, 3, 7, u32::MAX] {
            assert_eq!(run(&program, cpu), NO_SOCKET);
        }
    }

    #[test]
    fn an_empty_table_leaves_it_to_the_hash() {
        assert_eq!(run(&program(&[]), 0), NO_SOCKET);
    }
}
