# shellcheck shell=bash
# Settings of the memory allocator for training on a CPU. Sourced by environment.sh.
#
# As it comes, glibc gives the memory of a freed tensor back to the kernel, which clears its pages
# anew at the next update. With these settings glibc keeps it, in huge pages where it can (glibc
# 2.35). Without glibc they change nothing; another allocator, or a user's own setting, wins.
if [ -z "${GLIBC_TUNABLES+set}${LD_PRELOAD:+set}" ] && ! env | grep -q '^MALLOC_'; then
  GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000
  GLIBC_TUNABLES+=:glibc.malloc.top_pad=67108864:glibc.malloc.hugetlb=1
  export GLIBC_TUNABLES
fi
