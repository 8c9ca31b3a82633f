//! The class of every system call of x86-64, with the reason: the one table that filter, dispatcher, documents and tests use.
//!
//! *Native* calls never reach the shim. A call may be native only if it cannot block, or can be
//! interrupted only before it had any effect and then restarts by itself, and names no process. *Trapped* calls raise SIGSYS into
//! the shim. *Refused* ones answer an errno that programs handle well. What the table does not
//! know answers `ENOSYS`.

use crate::Errno;

/// What the filter does with a call from the guest's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The kernel runs it at once.
    Native,
    /// SIGSYS into the shim.
    Trap,
    /// Answers an errno.
    Refuse(Errno),
    /// Native unless the range of the first two arguments may meet the reserved range.
    Mapping,
    /// mremap(2): the same, and trapped if it says where to.
    Remapping,
    /// shmat(2): trapped if it says where to.
    Attaching,
    /// futex(2): native without a deadline; locks that inherit priority are trapped.
    Futex,
    /// ioctl(2): trapped if the request is one of terminals.
    Terminal,
    /// fcntl(2): native if it only reads or sets flags.
    DescriptorFlags,
    /// getsockopt(2): trapped for `SO_PEERCRED`.
    PeerCredentials,
    /// Native if the first argument, a PID, is 0.
    OtherProcess,
    /// clock_gettime(2) and its kin: trapped for CPU clocks, which a process takes along.
    CpuClock,
    /// epoll_ctl(2): trapped for `EPOLL_CTL_ADD`.
    Watch,
    /// getrandom(2): native for lengths that no signal cuts.
    Random,
}

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub nr: u32,
    /// Its name in capitals.
    pub name: &'static str,
    /// What the filter does.
    pub class: Class,
    /// Why, in one line.
    pub reason: &'static str,
}

/// Calls on a descriptor that only differ if it lives at another node. They are native; in a process that
/// may have such descriptors a second filter traps them ([`crate::bpf::WIDE`]).
pub const WIDE: [u64; 27] = [
    nr::PREAD64,
    nr::PWRITE64,
    nr::ACCEPT,
    nr::SHUTDOWN,
    nr::GETSOCKNAME,
    nr::GETPEERNAME,
    nr::SETSOCKOPT,
    nr::GETSOCKOPT,
    nr::FCNTL,
    nr::FSYNC,
    nr::FDATASYNC,
    nr::FTRUNCATE,
    nr::GETDENTS,
    nr::FCHMOD,
    nr::FSTATFS,
    nr::FADVISE64,
    nr::INOTIFY_RM_WATCH,
    nr::SYNC_FILE_RANGE,
    nr::FALLOCATE,
    nr::TIMERFD_SETTIME,
    nr::TIMERFD_GETTIME,
    nr::ACCEPT4,
    nr::PREADV,
    nr::PWRITEV,
    nr::SYNCFS,
    nr::PREADV2,
    nr::PWRITEV2,
];

/// Whether a call on a descriptor of another node is executed at its home. `second` is its second
/// argument (the command of fcntl).
#[must_use]
pub fn is_at_home(number: u64, second: u64) -> bool {
    /// `F_GETFL`, `F_SETFL`, `F_SETPIPE_SZ` to `F_GET_SEALS`: about the description.
    const fn is_about_description(command: u64) -> bool {
        matches!(command & 0xffff_ffff, 3 | 4 | 1031..=1034)
    }
    match number {
        nr::FCNTL => is_about_description(second),
        nr::READ
        | nr::WRITE
        | nr::READV
        | nr::WRITEV
        | nr::LSEEK
        | nr::GETDENTS64
        | nr::FLOCK
        | nr::CONNECT
        | nr::BIND
        | nr::LISTEN
        | nr::SENDTO
        | nr::RECVFROM
        | nr::SENDMSG
        | nr::RECVMSG
        | nr::SENDMMSG
        | nr::RECVMMSG => true,
        _ => WIDE.contains(&number),
    }
}

macro_rules! table {
    ($($number:literal $name:ident $class:ident $(($arg:expr))?, $reason:literal;)*) => {
        /// System-call numbers by name.
        pub mod nr {
            $(#[doc = concat!("Trap, native or refused: ", $reason, ".")]
            pub const $name: u64 = $number;)*
        }
        /// All known calls, by ascending number.
        pub static ROWS: &[Row] = &[
            $(Row { nr: $number, name: stringify!($name), class: Class::$class $(($arg))?, reason: $reason },)*
        ];
    };
}

/// Returns the class of a number; unknown ones are refused.
#[must_use]
pub fn class(number: u32) -> Class {
    match ROWS.binary_search_by_key(&number, |row| row.nr) {
        Ok(index) => ROWS[index].class,
        Err(_) => Class::Refuse(Errno::ENOSYS),
    }
}

table! {
    0 READ Trap, "may wait with a partial effect; the descriptor may live at another node or be a terminal";
    1 WRITE Trap, "may wait with a partial effect; the descriptor may live at another node or be a terminal";
    2 OPEN Trap, "the path may name a process under /proc or be /proc/self/exe";
    3 CLOSE Trap, "the shim tracks which descriptors are private or remote";
    4 STAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    5 FSTAT Trap, "the object may live at another node";
    6 LSTAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    7 POLL Trap, "waits with a deadline";
    8 LSEEK Trap, "the offset may live at another node";
    9 MMAP Mapping, "the reserved range is not the guest's";
    10 MPROTECT Mapping, "the reserved range is not the guest's";
    11 MUNMAP Mapping, "the reserved range is not the guest's";
    12 BRK Native, "cannot block; no name of a process";
    13 RT_SIGACTION Trap, "the shim owns handlers, masks and signal stacks";
    14 RT_SIGPROCMASK Trap, "the shim owns handlers, masks and signal stacks";
    15 RT_SIGRETURN Trap, "the shim owns handlers, masks and signal stacks";
    16 IOCTL Terminal, "terminal requests name groups of the fabric or a terminal elsewhere";
    17 PREAD64 Native, "a file operation: interrupted only before any effect";
    18 PWRITE64 Native, "a file operation: interrupted only before any effect";
    19 READV Trap, "may wait with a partial effect; the descriptor may live at another node or be a terminal";
    20 WRITEV Trap, "may wait with a partial effect; the descriptor may live at another node or be a terminal";
    21 ACCESS Trap, "the path may name a process under /proc or be /proc/self/exe";
    22 PIPE Native, "cannot block; no name of a process";
    23 SELECT Trap, "waits with a deadline";
    24 SCHED_YIELD Native, "cannot block; no name of a process";
    25 MREMAP Remapping, "the reserved range is not the guest's";
    26 MSYNC Native, "cannot block; no name of a process";
    27 MINCORE Native, "cannot block; no name of a process";
    28 MADVISE Mapping, "the reserved range is not the guest's";
    29 SHMGET Native, "System V and POSIX IPC of the node";
    30 SHMAT Attaching, "the reserved range is not the guest's";
    31 SHMCTL Trap, "names processes";
    32 DUP Trap, "the shim tracks which descriptors are private or remote";
    33 DUP2 Trap, "the shim tracks which descriptors are private or remote";
    34 PAUSE Trap, "waits, and no handler of its restarts it";
    35 NANOSLEEP Trap, "waits with a deadline";
    36 GETITIMER Native, "cannot block; no name of a process";
    37 ALARM Native, "cannot block; no name of a process";
    38 SETITIMER Native, "cannot block; no name of a process";
    39 GETPID Trap, "a name of the fabric, not of the host";
    40 SENDFILE Trap, "may wait with a partial effect";
    41 SOCKET Native, "cannot block; no name of a process";
    42 CONNECT Trap, "ports are the fabric's";
    43 ACCEPT Trap, "waits, perhaps with a limit of the socket's";
    44 SENDTO Trap, "may wait with a partial effect; ports are the fabric's";
    45 RECVFROM Trap, "may wait with a partial effect";
    46 SENDMSG Trap, "may wait with a partial effect; credentials, passed descriptors and ports are the fabric's";
    47 RECVMSG Trap, "may wait with a partial effect; credentials and passed descriptors are the fabric's";
    48 SHUTDOWN Native, "cannot block; no name of a process";
    49 BIND Trap, "ports are the fabric's";
    50 LISTEN Trap, "ports are the fabric's";
    51 GETSOCKNAME Native, "cannot block; no name of a process";
    52 GETPEERNAME Native, "cannot block; no name of a process";
    53 SOCKETPAIR Native, "cannot block; no name of a process";
    54 SETSOCKOPT Native, "cannot block; no name of a process";
    55 GETSOCKOPT PeerCredentials, "SO_PEERCRED names a process";
    56 CLONE Trap, "makes, replaces or ends a process or thread";
    57 FORK Trap, "makes, replaces or ends a process or thread";
    58 VFORK Trap, "makes, replaces or ends a process or thread";
    59 EXECVE Trap, "makes, replaces or ends a process or thread";
    60 EXIT Trap, "makes, replaces or ends a process or thread";
    61 WAIT4 Trap, "children are the fabric's";
    62 KILL Trap, "the target is a process of the fabric";
    63 UNAME Native, "cannot block; no name of a process";
    64 SEMGET Native, "System V and POSIX IPC of the node";
    65 SEMOP Trap, "waits, and no handler of its restarts it";
    66 SEMCTL Trap, "names processes";
    67 SHMDT Native, "System V and POSIX IPC of the node";
    68 MSGGET Native, "System V and POSIX IPC of the node";
    69 MSGSND Trap, "waits, and no handler of its restarts it";
    70 MSGRCV Trap, "waits, and no handler of its restarts it";
    71 MSGCTL Trap, "names processes";
    72 FCNTL DescriptorFlags, "locks and owners name processes, duplicates are tracked; flags alone are not";
    73 FLOCK Trap, "the fabric keeps who may lock a file; waits for other holders";
    74 FSYNC Native, "a file operation: interrupted only before any effect";
    75 FDATASYNC Native, "a file operation: interrupted only before any effect";
    76 TRUNCATE Trap, "the path may name a process under /proc or be /proc/self/exe";
    77 FTRUNCATE Native, "cannot block; no name of a process";
    78 GETDENTS Native, "a file operation: interrupted only before any effect";
    79 GETCWD Native, "cannot block; no name of a process";
    80 CHDIR Trap, "the path may name a process under /proc or be /proc/self/exe";
    81 FCHDIR Native, "cannot block; no name of a process";
    82 RENAME Native, "a file operation: interrupted only before any effect";
    83 MKDIR Native, "a file operation: interrupted only before any effect";
    84 RMDIR Native, "a file operation: interrupted only before any effect";
    85 CREAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    86 LINK Native, "a file operation: interrupted only before any effect";
    87 UNLINK Native, "a file operation: interrupted only before any effect";
    88 SYMLINK Native, "a file operation: interrupted only before any effect";
    89 READLINK Trap, "the path may name a process under /proc or be /proc/self/exe";
    90 CHMOD Native, "a file operation: interrupted only before any effect";
    91 FCHMOD Native, "a file operation: interrupted only before any effect";
    92 CHOWN Native, "a file operation: interrupted only before any effect";
    93 FCHOWN Native, "a file operation: interrupted only before any effect";
    94 LCHOWN Native, "a file operation: interrupted only before any effect";
    95 UMASK Native, "cannot block; no name of a process";
    96 GETTIMEOFDAY Native, "cannot block; no name of a process";
    97 GETRLIMIT Native, "cannot block; no name of a process";
    98 GETRUSAGE Trap, "children are the fabric's";
    99 SYSINFO Native, "cannot block; no name of a process";
    100 TIMES Trap, "children are the fabric's";
    101 PTRACE Trap, "the target is a process of the fabric";
    102 GETUID Native, "identity is the host kernel's, inside the guest's user namespace";
    103 SYSLOG Refuse(Errno::EPERM), "belongs to the host's administrator";
    104 GETGID Native, "identity is the host kernel's, inside the guest's user namespace";
    105 SETUID Native, "identity is the host kernel's, inside the guest's user namespace";
    106 SETGID Native, "identity is the host kernel's, inside the guest's user namespace";
    107 GETEUID Native, "identity is the host kernel's, inside the guest's user namespace";
    108 GETEGID Native, "identity is the host kernel's, inside the guest's user namespace";
    109 SETPGID Trap, "a name of the fabric, not of the host";
    110 GETPPID Trap, "a name of the fabric, not of the host";
    111 GETPGRP Trap, "a name of the fabric, not of the host";
    112 SETSID Trap, "a name of the fabric, not of the host";
    113 SETREUID Native, "identity is the host kernel's, inside the guest's user namespace";
    114 SETREGID Native, "identity is the host kernel's, inside the guest's user namespace";
    115 GETGROUPS Native, "identity is the host kernel's, inside the guest's user namespace";
    116 SETGROUPS Native, "identity is the host kernel's, inside the guest's user namespace";
    117 SETRESUID Native, "identity is the host kernel's, inside the guest's user namespace";
    118 GETRESUID Native, "identity is the host kernel's, inside the guest's user namespace";
    119 SETRESGID Native, "identity is the host kernel's, inside the guest's user namespace";
    120 GETRESGID Native, "identity is the host kernel's, inside the guest's user namespace";
    121 GETPGID Trap, "a name of the fabric, not of the host";
    122 SETFSUID Native, "identity is the host kernel's, inside the guest's user namespace";
    123 SETFSGID Native, "identity is the host kernel's, inside the guest's user namespace";
    124 GETSID Trap, "a name of the fabric, not of the host";
    125 CAPGET Trap, "may name a process of the fabric";
    126 CAPSET Trap, "may name a process of the fabric";
    127 RT_SIGPENDING Native, "cannot block; no name of a process";
    128 RT_SIGTIMEDWAIT Trap, "waits under a mask of its own";
    129 RT_SIGQUEUEINFO Trap, "the target is a process of the fabric";
    130 RT_SIGSUSPEND Trap, "waits under a mask of its own";
    131 SIGALTSTACK Trap, "the shim owns handlers, masks and signal stacks";
    132 UTIME Native, "a file operation: interrupted only before any effect";
    133 MKNOD Native, "a file operation: interrupted only before any effect";
    134 USELIB Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    135 PERSONALITY Native, "cannot block; no name of a process";
    136 USTAT Native, "cannot block; no name of a process";
    137 STATFS Native, "a file operation: interrupted only before any effect";
    138 FSTATFS Native, "a file operation: interrupted only before any effect";
    139 SYSFS Native, "cannot block; no name of a process";
    140 GETPRIORITY Trap, "the target is a process of the fabric";
    141 SETPRIORITY Trap, "the target is a process of the fabric";
    142 SCHED_SETPARAM OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    143 SCHED_GETPARAM OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    144 SCHED_SETSCHEDULER OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    145 SCHED_GETSCHEDULER OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    146 SCHED_GET_PRIORITY_MAX Native, "cannot block; no name of a process";
    147 SCHED_GET_PRIORITY_MIN Native, "cannot block; no name of a process";
    148 SCHED_RR_GET_INTERVAL OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    149 MLOCK Native, "cannot block; no name of a process";
    150 MUNLOCK Native, "cannot block; no name of a process";
    151 MLOCKALL Native, "cannot block; no name of a process";
    152 MUNLOCKALL Native, "cannot block; no name of a process";
    153 VHANGUP Native, "cannot block; no name of a process";
    154 MODIFY_LDT Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    155 PIVOT_ROOT Native, "the namespaces confine it";
    156 SYSCTL Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    157 PRCTL Trap, "some requests would loosen the shim's hold";
    158 ARCH_PRCTL Trap, "some requests would loosen the shim's hold";
    159 ADJTIMEX Native, "cannot block; no name of a process";
    160 SETRLIMIT Native, "cannot block; no name of a process";
    161 CHROOT Native, "the namespaces confine it";
    162 SYNC Native, "cannot block; no name of a process";
    163 ACCT Refuse(Errno::EPERM), "belongs to the host's administrator";
    164 SETTIMEOFDAY Refuse(Errno::EPERM), "belongs to the host's administrator";
    165 MOUNT Native, "the namespaces confine it";
    166 UMOUNT2 Native, "the namespaces confine it";
    167 SWAPON Refuse(Errno::EPERM), "belongs to the host's administrator";
    168 SWAPOFF Refuse(Errno::EPERM), "belongs to the host's administrator";
    169 REBOOT Refuse(Errno::EPERM), "belongs to the host's administrator";
    170 SETHOSTNAME Native, "the namespaces confine it";
    171 SETDOMAINNAME Native, "the namespaces confine it";
    172 IOPL Refuse(Errno::EPERM), "belongs to the host's administrator";
    173 IOPERM Refuse(Errno::EPERM), "belongs to the host's administrator";
    174 CREATE_MODULE Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    175 INIT_MODULE Refuse(Errno::EPERM), "belongs to the host's administrator";
    176 DELETE_MODULE Refuse(Errno::EPERM), "belongs to the host's administrator";
    177 GET_KERNEL_SYMS Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    178 QUERY_MODULE Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    179 QUOTACTL Refuse(Errno::EPERM), "belongs to the host's administrator";
    180 NFSSERVCTL Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    181 GETPMSG Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    182 PUTPMSG Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    183 AFS_SYSCALL Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    184 TUXCALL Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    185 SECURITY Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    186 GETTID Trap, "a name of the fabric, not of the host";
    187 READAHEAD Native, "cannot block; no name of a process";
    188 SETXATTR Native, "a file operation: interrupted only before any effect";
    189 LSETXATTR Native, "a file operation: interrupted only before any effect";
    190 FSETXATTR Native, "a file operation: interrupted only before any effect";
    191 GETXATTR Native, "a file operation: interrupted only before any effect";
    192 LGETXATTR Native, "a file operation: interrupted only before any effect";
    193 FGETXATTR Native, "a file operation: interrupted only before any effect";
    194 LISTXATTR Native, "a file operation: interrupted only before any effect";
    195 LLISTXATTR Native, "a file operation: interrupted only before any effect";
    196 FLISTXATTR Native, "a file operation: interrupted only before any effect";
    197 REMOVEXATTR Native, "a file operation: interrupted only before any effect";
    198 LREMOVEXATTR Native, "a file operation: interrupted only before any effect";
    199 FREMOVEXATTR Native, "a file operation: interrupted only before any effect";
    200 TKILL Trap, "the target is a process of the fabric";
    201 TIME Native, "cannot block; no name of a process";
    202 FUTEX Futex, "spans are kept over moves; words of locks that inherit priority hold TIDs of the fabric";
    203 SCHED_SETAFFINITY OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    204 SCHED_GETAFFINITY OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    205 SET_THREAD_AREA Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    206 IO_SETUP Native, "cannot block; no name of a process";
    207 IO_DESTROY Native, "cannot block; no name of a process";
    208 IO_GETEVENTS Trap, "waits with a deadline";
    209 IO_SUBMIT Native, "cannot block; no name of a process";
    210 IO_CANCEL Native, "cannot block; no name of a process";
    211 GET_THREAD_AREA Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    212 LOOKUP_DCOOKIE Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    213 EPOLL_CREATE Native, "cannot block; no name of a process";
    214 EPOLL_CTL_OLD Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    215 EPOLL_WAIT_OLD Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    216 REMAP_FILE_PAGES Mapping, "the reserved range is not the guest's";
    217 GETDENTS64 Trap, "the processes listed below /proc are the fabric's";
    218 SET_TID_ADDRESS Trap, "a name of the fabric, not of the host";
    219 RESTART_SYSCALL Native, "the kernel itself issues it after a stop";
    220 SEMTIMEDOP Trap, "waits with a deadline";
    221 FADVISE64 Native, "cannot block; no name of a process";
    222 TIMER_CREATE Trap, "the target is a process of the fabric";
    223 TIMER_SETTIME Native, "cannot block; no name of a process";
    224 TIMER_GETTIME Native, "cannot block; no name of a process";
    225 TIMER_GETOVERRUN Native, "cannot block; no name of a process";
    226 TIMER_DELETE Native, "cannot block; no name of a process";
    227 CLOCK_SETTIME Refuse(Errno::EPERM), "belongs to the host's administrator";
    228 CLOCK_GETTIME CpuClock, "CPU clocks count what was used at other nodes too";
    229 CLOCK_GETRES CpuClock, "CPU clocks name a process or thread of the fabric";
    230 CLOCK_NANOSLEEP Trap, "waits with a deadline";
    231 EXIT_GROUP Trap, "makes, replaces or ends a process or thread";
    232 EPOLL_WAIT Trap, "waits with a deadline";
    233 EPOLL_CTL Watch, "the host would watch files of the tree, which no kernel watches";
    234 TGKILL Trap, "the target is a process of the fabric";
    235 UTIMES Native, "a file operation: interrupted only before any effect";
    236 VSERVER Refuse(Errno::ENOSYS), "obsolete, never implemented on this architecture, or superseded";
    237 MBIND Native, "cannot block; no name of a process";
    238 SET_MEMPOLICY Native, "cannot block; no name of a process";
    239 GET_MEMPOLICY Native, "cannot block; no name of a process";
    240 MQ_OPEN Native, "System V and POSIX IPC of the node";
    241 MQ_UNLINK Native, "System V and POSIX IPC of the node";
    242 MQ_TIMEDSEND Trap, "waits with a deadline";
    243 MQ_TIMEDRECEIVE Trap, "waits with a deadline";
    244 MQ_NOTIFY Native, "System V and POSIX IPC of the node";
    245 MQ_GETSETATTR Native, "System V and POSIX IPC of the node";
    246 KEXEC_LOAD Refuse(Errno::EPERM), "belongs to the host's administrator";
    247 WAITID Trap, "children are the fabric's";
    248 ADD_KEY Refuse(Errno::ENOSYS), "keyrings belong to the host";
    249 REQUEST_KEY Refuse(Errno::ENOSYS), "keyrings belong to the host";
    250 KEYCTL Refuse(Errno::ENOSYS), "keyrings belong to the host";
    251 IOPRIO_SET Trap, "the target is a process of the fabric";
    252 IOPRIO_GET Trap, "the target is a process of the fabric";
    253 INOTIFY_INIT Native, "cannot block; no name of a process";
    254 INOTIFY_ADD_WATCH Native, "cannot block; no name of a process";
    255 INOTIFY_RM_WATCH Native, "cannot block; no name of a process";
    256 MIGRATE_PAGES Refuse(Errno::EPERM), "belongs to the host's administrator";
    257 OPENAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    258 MKDIRAT Native, "a file operation: interrupted only before any effect";
    259 MKNODAT Native, "a file operation: interrupted only before any effect";
    260 FCHOWNAT Native, "a file operation: interrupted only before any effect";
    261 FUTIMESAT Native, "a file operation: interrupted only before any effect";
    262 NEWFSTATAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    263 UNLINKAT Native, "a file operation: interrupted only before any effect";
    264 RENAMEAT Native, "a file operation: interrupted only before any effect";
    265 LINKAT Native, "a file operation: interrupted only before any effect";
    266 SYMLINKAT Native, "a file operation: interrupted only before any effect";
    267 READLINKAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    268 FCHMODAT Native, "a file operation: interrupted only before any effect";
    269 FACCESSAT Trap, "the path may name a process under /proc or be /proc/self/exe";
    270 PSELECT6 Trap, "waits under a mask of its own";
    271 PPOLL Trap, "waits under a mask of its own";
    272 UNSHARE Trap, "some requests would loosen the shim's hold";
    273 SET_ROBUST_LIST Trap, "robust lists hold TIDs of the fabric";
    274 GET_ROBUST_LIST Trap, "the target is a process of the fabric";
    275 SPLICE Trap, "may wait with a partial effect";
    276 TEE Trap, "may wait with a partial effect";
    277 SYNC_FILE_RANGE Native, "a file operation: interrupted only before any effect";
    278 VMSPLICE Trap, "may wait with a partial effect";
    279 MOVE_PAGES OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    280 UTIMENSAT Native, "a file operation: interrupted only before any effect";
    281 EPOLL_PWAIT Trap, "waits under a mask of its own";
    282 SIGNALFD Trap, "the mask must not hold the shim's signals";
    283 TIMERFD_CREATE Native, "cannot block; no name of a process";
    284 EVENTFD Native, "cannot block; no name of a process";
    285 FALLOCATE Trap, "interrupted with EINTR in spite of SA_RESTART (tmpfs)";
    286 TIMERFD_SETTIME Native, "cannot block; no name of a process";
    287 TIMERFD_GETTIME Native, "cannot block; no name of a process";
    288 ACCEPT4 Trap, "waits, perhaps with a limit of the socket's";
    289 SIGNALFD4 Trap, "the mask must not hold the shim's signals";
    290 EVENTFD2 Native, "cannot block; no name of a process";
    291 EPOLL_CREATE1 Native, "cannot block; no name of a process";
    292 DUP3 Trap, "the shim tracks which descriptors are private or remote";
    293 PIPE2 Native, "cannot block; no name of a process";
    294 INOTIFY_INIT1 Native, "cannot block; no name of a process";
    295 PREADV Native, "a file operation: interrupted only before any effect";
    296 PWRITEV Native, "a file operation: interrupted only before any effect";
    297 RT_TGSIGQUEUEINFO Trap, "the target is a process of the fabric";
    298 PERF_EVENT_OPEN Refuse(Errno::EPERM), "belongs to the host's administrator";
    299 RECVMMSG Trap, "may wait with a partial effect";
    300 FANOTIFY_INIT Native, "a file operation: interrupted only before any effect";
    301 FANOTIFY_MARK Native, "a file operation: interrupted only before any effect";
    302 PRLIMIT64 OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    303 NAME_TO_HANDLE_AT Native, "a file operation: interrupted only before any effect";
    304 OPEN_BY_HANDLE_AT Native, "a file operation: interrupted only before any effect";
    305 CLOCK_ADJTIME Native, "cannot block; no name of a process";
    306 SYNCFS Native, "a file operation: interrupted only before any effect";
    307 SENDMMSG Trap, "may wait with a partial effect; ports are the fabric's";
    308 SETNS Native, "the namespaces confine it";
    309 GETCPU Native, "cannot block; no name of a process";
    310 PROCESS_VM_READV Trap, "the target is a process of the fabric";
    311 PROCESS_VM_WRITEV Trap, "the target is a process of the fabric";
    312 KCMP Trap, "the target is a process of the fabric";
    313 FINIT_MODULE Refuse(Errno::EPERM), "belongs to the host's administrator";
    314 SCHED_SETATTR OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    315 SCHED_GETATTR OtherProcess, "native on the caller itself, else the target is a process of the fabric";
    316 RENAMEAT2 Native, "a file operation: interrupted only before any effect";
    317 SECCOMP Trap, "some requests would loosen the shim's hold";
    318 GETRANDOM Random, "more than 256 bytes may come short when a signal interrupts";
    319 MEMFD_CREATE Native, "cannot block; no name of a process";
    320 KEXEC_FILE_LOAD Refuse(Errno::EPERM), "belongs to the host's administrator";
    321 BPF Refuse(Errno::EPERM), "belongs to the host's administrator";
    322 EXECVEAT Trap, "makes, replaces or ends a process or thread";
    323 USERFAULTFD Refuse(Errno::EPERM), "pages of a guest are the fabric's to track";
    324 MEMBARRIER Native, "cannot block; no name of a process";
    325 MLOCK2 Native, "cannot block; no name of a process";
    326 COPY_FILE_RANGE Trap, "may wait with a partial effect";
    327 PREADV2 Trap, "at offset -1 as readv: may wait with a partial effect";
    328 PWRITEV2 Trap, "at offset -1 as writev: may wait with a partial effect";
    329 PKEY_MPROTECT Mapping, "the reserved range is not the guest's";
    330 PKEY_ALLOC Native, "cannot block; no name of a process";
    331 PKEY_FREE Native, "cannot block; no name of a process";
    332 STATX Trap, "the path may name a process under /proc or be /proc/self/exe";
    333 IO_PGETEVENTS Refuse(Errno::ENOSYS), "waits under a mask in a structure; rarely used";
    334 RSEQ Trap, "the area that the kernel writes is noted for a move";
    424 PIDFD_SEND_SIGNAL Trap, "the target is a process of the fabric";
    425 IO_URING_SETUP Refuse(Errno::ENOSYS), "runs calls that no filter sees";
    426 IO_URING_ENTER Refuse(Errno::ENOSYS), "runs calls that no filter sees";
    427 IO_URING_REGISTER Refuse(Errno::ENOSYS), "runs calls that no filter sees";
    428 OPEN_TREE Native, "the namespaces confine it";
    429 MOVE_MOUNT Native, "the namespaces confine it";
    430 FSOPEN Native, "the namespaces confine it";
    431 FSCONFIG Native, "the namespaces confine it";
    432 FSMOUNT Native, "the namespaces confine it";
    433 FSPICK Native, "the namespaces confine it";
    434 PIDFD_OPEN Trap, "the target is a process of the fabric";
    435 CLONE3 Refuse(Errno::ENOSYS), "C libraries fall back to clone";
    436 CLOSE_RANGE Trap, "the shim tracks which descriptors are private or remote";
    437 OPENAT2 Trap, "the path may name a process under /proc or be /proc/self/exe";
    438 PIDFD_GETFD Trap, "the target is a process of the fabric";
    439 FACCESSAT2 Trap, "the path may name a process under /proc or be /proc/self/exe";
    440 PROCESS_MADVISE Trap, "the target is a process of the fabric";
    441 EPOLL_PWAIT2 Trap, "waits with a deadline";
    442 MOUNT_SETATTR Native, "the namespaces confine it";
    443 QUOTACTL_FD Refuse(Errno::EPERM), "belongs to the host's administrator";
    444 LANDLOCK_CREATE_RULESET Native, "the namespaces confine it";
    445 LANDLOCK_ADD_RULE Native, "the namespaces confine it";
    446 LANDLOCK_RESTRICT_SELF Native, "the namespaces confine it";
    447 MEMFD_SECRET Native, "cannot block; no name of a process";
    448 PROCESS_MRELEASE Trap, "the target is a process of the fabric";
    449 FUTEX_WAITV Trap, "waits with a deadline";
    450 SET_MEMPOLICY_HOME_NODE Native, "cannot block; no name of a process";
    451 CACHESTAT Native, "cannot block; no name of a process";
    452 FCHMODAT2 Native, "a file operation: interrupted only before any effect";
    453 MAP_SHADOW_STACK Refuse(Errno::ENOSYS), "newer than what the shim understands";
    454 FUTEX_WAKE Refuse(Errno::ENOSYS), "newer than what the shim understands";
    455 FUTEX_WAIT Refuse(Errno::ENOSYS), "newer than what the shim understands";
    456 FUTEX_REQUEUE Refuse(Errno::ENOSYS), "newer than what the shim understands";
    457 STATMOUNT Refuse(Errno::ENOSYS), "newer than what the shim understands";
    458 LISTMOUNT Refuse(Errno::ENOSYS), "newer than what the shim understands";
    459 LSM_GET_SELF_ATTR Refuse(Errno::ENOSYS), "newer than what the shim understands";
    460 LSM_SET_SELF_ATTR Refuse(Errno::ENOSYS), "newer than what the shim understands";
    461 LSM_LIST_MODULES Refuse(Errno::ENOSYS), "newer than what the shim understands";
    462 MSEAL Refuse(Errno::ENOSYS), "newer than what the shim understands";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_ascend_and_cover_the_table() {
        assert!(ROWS.windows(2).all(|pair| pair[0].nr < pair[1].nr));
        assert!(ROWS.len() > 360);
        assert!(ROWS.iter().all(|row| !row.reason.is_empty()));
    }

    #[test]
    fn unknown_numbers_are_refused() {
        assert_eq!(class(400), Class::Refuse(Errno::ENOSYS));
        assert_eq!(class(100_000), Class::Refuse(Errno::ENOSYS));
        assert_eq!(class(39), Class::Trap);
        assert_eq!(class(102), Class::Native);
    }
}
