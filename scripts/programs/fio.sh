# fio: verified writes to files of 64M (SIZE) that begin in a layer and to new
# ones, by four engines; the checksums are read again after a remount.
. "$(dirname "$0")/lib.sh"
need fio fio
need rsync rsync
size=${SIZE:-64M}

# jobs_of_fio prints the jobs, which are read a second time to verify.
jobs_of_fio() {
	cat <<-END
		[global]
		size=$size
		verify=crc32c
		verify_fatal=1
		verify_state_save=0
		randseed=4711
		[random-4k]
		rw=randrw
		bs=4k
		filename=low-random
		overwrite=1
		[sequential-1m]
		stonewall
		rw=write
		bs=1M
		filename=low-sequential
		[mmap]
		stonewall
		rw=randwrite
		bs=4k
		ioengine=mmap
		filename=low-mmap
		overwrite=1
		[libaio-direct]
		stonewall
		rw=randwrite
		bs=16k
		ioengine=libaio
		iodepth=16
		direct=1
		filename=low-direct
		overwrite=1
		[fallocate-posix]
		stonewall
		rw=randwrite
		bs=8k
		fallocate=posix
		filename=new-posix
		[fallocate-keep]
		stonewall
		rw=randwrite
		bs=8k
		fallocate=keep
		ioengine=pvsync2
		filename=new-keep
		[fallocate-truncate]
		stonewall
		rw=randwrite
		bs=64k
		fallocate=truncate
		fsync=32
		filename=new-truncate
		[two-at-once]
		stonewall
		rw=randwrite
		bs=4k
		numjobs=2
		size=8M
		filename_format=new-two.\$jobnum
	END
}

ran() { fio --directory="$view" "$@" "$DIR/jobs" >"$DIR/fio.out" 2>&1 || fail "fio $*: $(grep -i 'err\|verif\|bad' "$DIR/fio.out" | head -n 20)"; }

mkdir "$DIR/plain"
for f in random sequential mmap direct; do head -c "${size%M}M" /dev/urandom >"$DIR/plain/low-$f"; done
for n in {1..9}; do cp /etc/passwd "$DIR/plain/bystander$n"; done
split "$DIR/plain"
jobs_of_fio >"$DIR/jobs"
before=$(fingerprint "$DIR"/l[123])
mount_view
ran
unmount_view
mount_view
ran --verify_only
for n in {1..9}; do cmp /etc/passwd "$view/bystander$n"; done
files=$(ls "$view"/low-* "$view"/new-* | wc -l)
unmount_view
layers_kept "$before"
say "crc32c of $files files of $size, 4 of them from a layer: randrw 4k, sequential 1M, mmap, libaio direct, fallocate; and again after a remount"
