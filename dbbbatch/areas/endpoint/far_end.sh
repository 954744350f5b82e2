# What runs at the far end of a handoff: POSIX shell, coreutils and xargs, nothing of ours installed.
#
# session.py sends it over stdin, after lines that set nonce, staging, buffer and sum. Then each
# request is a line "OPERATION ATTEMPT LIMIT BYTES ARGUMENT" followed by that many bytes: a list of
# names, each ended by a NUL byte, or a tar archive. Names are only ever data and arguments, never code. Each answer
# is a line "NONCE ok|no BYTES" followed by that many bytes, so that what a start-up file prints
# does no harm.
#
# An attempt is a directory in staging, never used twice:
#   t/         the files as they arrive, by relative path
#   N          links to directories of t/, for commands that copy to one directory at a time
#   dirs       the directories of the batch       names   its files
#   verified   the names that were verified here and are durable. This is the receipt: a file that
#              is listed here and is no longer in t/ has been placed.
#   single     exists if each of these was then the only name of its file
# A pass that takes over the attempt of a killed one first renames it to ATTEMPT.r: whatever still
# runs for the killed pass finds its paths gone before its next step, and each step may run twice at
# the same time. ATTEMPT.x is being removed.

unset TAR_OPTIONS
LC_ALL=C
export LC_ALL
umask 022
newline="
"

fail() {
    printf '%s\n' "$*" >&2
    return 1
}

# Run a command, at most until the time limit of the request. One that takes longer is named, also
# where its output is not used: descriptor 7 is the answer of the operation.
limited() {
    timeout -k 5 "$limit" "$@"
    set -- "$?" "$@"
    case $1 in
    124 | 137)
        for tool do
            case $tool in
            "$1" | xargs | -* | [0-9]*) ;;
            *) break ;;
            esac
        done
        printf '%s did not end within its time limit of %s s\n' "$tool" "$limit" >&7
        ;;
    esac
    return "$1"
}

# Whether a command that ended so was ended at its time limit.
late() {
    [ "$1" = 124 ] || [ "$1" = 137 ]
}

# Whether a file of the attempt is there: what is gone is not the same as what is empty.
still_there() {
    [ -e "$1" ] || fail "$1 is gone"
}

# Add the output of a command about files to the answer. Those that are missing are left out, which
# is no failure; a full disk is one. An operation whose answer is this file prints "answer" at its
# end: staging may go at any moment, and then there is no answer, which is not an empty one.
answer() {
    problem=$(limited "$@" 2>&1 >>"$work/answer")
    late $? && return 1
    case $newline$problem in
    *"$newline$sum: write error"* | *"${newline}stat: write error"*)
        fail "$work: the answer cannot be written; is the disk full?"
        ;;
    *) still_there "$work/answer" ;;
    esac
}

roots() {
    for root in "$staging" "$buffer"; do
        [ -d "$root" ] || fail "$root is not there (not mounted?)" || return
        [ -w "$root" ] || fail "$root: the account there may not write in it" || return
    done
}

op_hello() {
    for tool in "$sum" chmod cp dd ln mkdir mv rm stat sync timeout touch tr wc xargs $1; do
        command -v "$tool" >/dev/null || fail "there is no command $tool" || return
    done
    roots || return
    [ "$(stat -c %d -- "$staging")" = "$(stat -c %d -- "$buffer")" ] ||
        fail "staging $staging and buffer $buffer are on different file systems"
}

# Try each tool with the options with which it is used here, and name the one that fails; tar only if
# it is $1. The files for this lie in the attempt, and are removed with it.
tools() {
    try timeout -k 5 "$limit" true && try mkdir -p -- "$work/tools/a/t" &&
        cd "$work/tools" && try_all "$1" && cd / && rm -rf -- "$work/tools"
}

try() {
    problem=$(limited "$@" 2>&1) && return
    late $? ||
        fail "the command $1 cannot do what is asked of it ($*): ${problem%%"$newline"*}"
    return 1
}

try_all() {
    rest=$(echo 12345 | (try dd bs=65536 iflag=fullblock,count_bytes count=3 of=a/name && cat)) ||
        return
    [ "$(cat a/name) $rest" = "123 45" ] ||
        fail "the command dd does not take a given number of bytes (count_bytes)" || return
    printf './a/name\0' >list
    try stat -f -c '%a %S' -- a && try stat --printf='%s\0' -- a/name || return
    digest=$(limited "$sum" <a/name) && try "$sum" -z -- ./a/name && (try xargs -0 -r true <list) ||
        return
    limited xargs -0 -r "$sum" -z -- <list >answer
    # A sum, two blanks, eight bytes of a name and a NUL byte.
    digest=${digest%% *}
    [ "$(stat -c %s -- answer)" = "$((${#digest} + 11))" ] ||
        fail "the command $sum does not end its lines with a NUL byte (-z)" || return
    try cp -l -P --parents -t a/t -- ./a/name || return
    [ a/name -ef a/t/a/name ] ||
        fail "the command cp makes no hard links (-l) in $staging" || return
    try ln -s -- t a/1 && try mv -T -- a a.r && try sync -f /dev/null || return
    [ "$1" != tar ] || try_tar
}

# Unpack what tar packed.
try_tar() {
    mkdir t && try tar -c -f packed ./a.r/name || return
    problem=$(bytes=$(stat -c %s packed) && work=. && op_unpack <packed 2>&1)
    [ "$(cat t/a.r/name)" = 123 ] || fail "the command tar cannot unpack: ${problem%%"$newline"*}"
}

# Make an attempt; the tools are tried if $1 is "tools", and tar, too, if it is "tools-tar".
op_begin() {
    roots && mkdir -- "$work" "$work/t" || return
    case $1 in tools*) tools "${1#tools-}" ;; esac
}

# Keep the data of the request under the name $1.
op_put() {
    to=$work/$1
    { [ ! -e "$to" ] && [ ! -L "$to" ]; } || rm -f -- "$to"
    dd bs=65536 iflag=fullblock,count_bytes count="$bytes" of="$to" 2>/dev/null ||
        fail "$to cannot be written; is the disk full?"
}

# Make the numbered links, if $1 is "links", and look at the buffer. Answers free blocks and their
# size, then what the buffer has of the batch already.
op_look() {
    if [ "$1" = links ]; then
        made "$work/t" &&
            (cd "$work" && limited xargs -0 -r -n 20 sh -c '
                while [ $# -gt 1 ]; do ln -s -- "t/$2" "$1" || exit; shift 2; done
                ' sh <"$work/numbered") || return
    fi
    stat -f -c '%a %S' -- "$work" >"$work/answer" &&
        cd "$buffer" && there <"$work/names" >>"$work/answer" && printf answer
}

# Unpack the archive that follows.
op_unpack() {
    received unpacked
}

unpacked() {
    tar -x -o $tar_options -C "$work/t" -f -
}

# Append what follows to the only file of the attempt, at $1, and give that permissions and time.
op_append() {
    received appended "$@"
}

appended() {
    only=$(only_name) && IFS=/ && set -- $1 && only=$work/t/${only%/} &&
        dd bs=65536 iflag=fullblock oflag=seek_bytes seek="$1" conv=notrunc of="$only" &&
        chmod -- "$2" "$only" && touch -d "@$3" -- "$only"
}

# Run a command that reads what follows. Answers what it complains of: what is missing then will not
# be verified. Some versions of tar go on reading at the end of an archive, so dd counts; and some
# end at their first error, after which the rest is read in vain. If dd itself is ended, the session
# must end: a part of a file would be taken for a request. There is no time limit here: the sender
# sees whether it gets on. Where the disk is filled, the room of `spare` is left to verify the rest.
received() {
    { printf '%262144s' '' >"$work/spare"; } 2>/dev/null
    {
        whole=$({
            { dd bs=65536 iflag=fullblock,count_bytes count="$bytes" 2>/dev/null && echo >&3 yes; } | {
                said=$("$@" 2>&1) || printf >&4 'exit code %s: %s\n' "$?" "$said"
                cat >/dev/null
            }
        } 3>&1)
    } 4>&1
    { printf '' >"$work/spare"; } 2>/dev/null
    [ "$whole" = yes ] || fail "what was sent could not be read to its end"
}

# Print the only name of the attempt, and a slash, so that no newline at its end is lost.
only_name() {
    tr -d '\0' <"$work/names" && printf /
}

# Copy what the attempt $1 has of the only file of this one, and remove that attempt. Answers size
# and sum of the copy, or nothing if there is none, or it cannot be had. It is a copy because whoever
# wrote the file may still be at work.
op_resume() {
    [ -d "$staging/$1" ] || return 0
    only=$(only_name) || return
    from=$staging/$1/t/${only%/} only=$work/t/${only%/}
    if [ -f "$from" ] && [ ! -L "$from" ] && made "$work/t" 2>/dev/null 7>&2 &&
        limited cp --reflink=auto -- "$from" "$only" 2>/dev/null 7>&2 &&
        digest=$(limited "$sum" <"$only" 2>/dev/null 7>&2); then
        printf '%s %s' "$(stat -c %s -- "$only")" "${digest%% *}"
    else
        rm -f -- "$only"
    fi
    limited rm -rf -- "$staging/$1"
}

# Keep the attempt under the name $1 for op_resume. What was kept there before stays: op_resume did
# not come to its end, so that the attempt has less.
op_keep() {
    cd "$staging" && [ ! -d "$1" ] && [ -d "$attempt" ] || return 0
    mv -T -- "$attempt" "$1" && touch -c -- "$1"
}

# Make the directories of the batch in $1. One that cannot be made is no failure of the others: the
# files of that directory will fail by themselves.
made() {
    problem=$(cd "$1" && limited xargs -0 -r mkdir -p -- <"$work/dirs" 2>&1) && return
    could_be_made "$?" "$1"
}

could_be_made() {
    [ "$1" = 123 ] || fail "$2: the directories of a batch cannot be made: $problem" || return
    case $problem in
    *": No space left on device"* | *": Disk quota exceeded"*) fail "$2: $problem" ;;
    esac
}

# Whether a part of the directory $2 below $1 is a link. What lies behind it is no part of the
# buffer: nothing is made, placed or looked at there. Whoever may write in the buffer can still
# exchange a directory between this and the next command; dbb receive holds it open.
behind_link='
    behind_link() {
        part=$2
        while [ "$part" != . ]; do
            [ ! -L "$1/$part" ] || return 0
            part=${part%/*}
        done
        return 1
    }'

# Print something if a directory of the batch lies behind a link.
linked() {
    cd "$buffer" && limited xargs -0 -r sh -c "$behind_link"'
        for d do ! behind_link . "$d" || echo yes; done' sh <"$work/dirs"
}

# Of directories that are not there, print the permissions of the nearest ones above them that are;
# if permissions are given, print the directories above which they are.
by_mode=$behind_link'
    only=$1 last= seen=
    shift
    for d do
        [ ! -d "$d" ] && ! behind_link . "$d" || continue
        above=${d%/*}
        until [ -d "$above" ] || [ "$above" = . ]; do above=${above%/*}; done
        if [ "$above" != "$last" ]; then
            last=$above
            mode=$(stat -c %a -- "$above" 2>/dev/null) || mode=755
        fi
        if [ -z "$only" ]; then
            case " $seen " in
            *" $mode "*) ;;
            *) seen="$seen $mode" && echo "$mode" || exit ;;
            esac
        elif [ "$mode" = "$only" ]; then
            printf "%s\0" "$d" || exit
        fi
    done'

# The same in the buffer, where others work, too: new directories get the permissions of the nearest
# one above them. Those of equal permissions are made together. No file is written for this: the disk
# may be full, and what arrived is placed nevertheless.
made_there() {
    modes=$(cd "$buffer" && limited xargs -0 -r sh -c "$by_mode" sh '' <"$work/dirs") ||
        fail "$buffer: its directories cannot be looked at" || return
    tried=
    for mode in $modes; do
        case " $tried " in *" $mode "*) continue ;; esac
        tried="$tried $mode"
        sticky=:
        case $mode in [1357]???) sticky='chmod +t' ;; esac
        problem=$(umask "$(printf %o "$((0077 & ~0$mode))")"
            cd "$buffer" && limited xargs -0 -r sh -c "$by_mode" sh "$mode" <"$work/dirs" |
                limited xargs -0 -r sh -c '
                    sticky=$1
                    shift
                    mkdir -p -- "$@"
                    status=$?
                    $sticky -- "$@" 2>/dev/null
                    exit "$status"' sh "$sticky" 2>&1) ||
            could_be_made "$?" "$buffer" || return
    done
}

# Answer those of the names on stdin that cannot be placed because of something here: "D", name and
# NUL where something that is no directory, or a link, has the name of its directory, "E", name and
# NUL where something has its own name; then the sums of the latter.
there() {
    : >"$work/there"
    limited xargs -0 -r sh -c "$behind_link"'
        there=$1
        shift
        for f do
            if behind_link . "${f%/*}"; then
                printf "D%s\0" "$f" || exit
                continue
            fi
            if [ -e "$f" ] || [ -L "$f" ]; then printf "%s\0" "$f" >&3 || exit; fi
            above=${f%/*}
            while [ ! -d "$above" ] && [ "$above" != . ]; do
                if [ -e "$above" ] || [ -L "$above" ]; then
                    printf "D%s\0" "$f" || exit
                    break
                fi
                above=${above%/*}
            done
        done 3>>"$there"' sh "$work/there" || return
    [ -s "$work/there" ] || { still_there "$work/there"; return; }
    limited xargs -0 -r sh -c 'for f do printf "E%s\0" "$f" || exit; done' sh <"$work/there" &&
        answer xargs -0 -r "$sum" -z -- <"$work/there"
}

# Hash what arrived. If the list of sums and sizes has the sum $1, make the data durable and turn
# the names into the receipt; else answer the list.
op_verify() {
    [ -d "$work/t" ] && cd "$work/t" || fail "$work is gone" || return
    answer xargs -0 -r "$sum" -z -- <"$work/names" &&
        answer xargs -0 -r stat --printf='%s\0' -- <"$work/names" || return
    found=$("$sum" <"$work/answer")
    [ "${found%% *}" = "$1" ] || { printf answer; return; }
    rm -f -- "$work/answer" "$work/single" &&
        limited xargs -0 -r stat -c '%h %a' -- <"$work/names" >"$work/modes" || return
    read_modes
    # No file enters the buffer with a set-id bit, or with permission to write: what was verified is
    # complete.
    if [ -n "$loose" ]; then
        problem=$(limited xargs -0 -r chmod a-wst -- <"$work/names" 2>&1)
        code=$?
        late "$code" && return 1
        # Some file systems keep their own modes, or only claim to set others. Write permission of
        # the account itself is tolerated.
        if [ "$code" != 0 ] || [ "$loose" = others ]; then
            limited xargs -0 -r stat -c '%h %a' -- <"$work/names" >"$work/modes" || return
            read_modes
            [ "$loose" != others ] || without_permissions ||
                fail "$work/t: set-id bits, or write permission of group or others, cannot be" \
                    "taken away: ${problem%%"$newline"*}" || return
        fi
    fi
    limited sync -f . || return
    [ -z "$single" ] || : >"$work/single" || return
    mv -- "$work/names" "$work/verified" && sync "$work/verified" "$work" && printf verified
}

# Whether the file system shows the same permissions for all files, whatever they were made with:
# then those that it shows are not the sender's. Set-id bits are not tolerated in any case.
without_permissions() {
    rm -f -- "$work/plain" && (umask 077 && : >"$work/plain") || return
    shown=$(stat -c %a -- "$work/plain")
    rm -f -- "$work/plain"
    [ "$shown" != 600 ] || return
    while read -r links mode; do
        [ "$mode" = "$shown" ] && [ "${#mode}" -le 3 ] || return
    done <"$work/modes"
}

# Whether each file has one name only, and whether somebody may write to one: the account, or others.
read_modes() {
    single=yes loose=
    while read -r links mode; do
        [ "$links" = 1 ] || single=
        case $mode in
        ????* | *[2367]? | *[2367]) loose=others ;;
        *[2367]*) loose=${loose:-account} ;;
        esac
    done <"$work/modes"
}

# Place what was verified: link it into the buffer (the kernel refuses a name that is taken), make
# that durable, then remove it from staging. Answers what could not be placed: "M" with the message
# of cp, "K", name and NUL for each, and before it "C" where its directory takes not even a file of
# ours; then what the buffer has of these. Fails if the buffer takes none.
op_place() {
    [ -e "$work/verified" ] && cd "$work/t" || fail "attempt $attempt was not verified" || return
    case $attempt in
    *.r) take_placed || return ;;
    esac
    made_there && links=$(linked) || return
    [ -z "$links" ] &&
        limited xargs -0 -r cp -lP --parents -t "$buffer" -- <"$work/verified" 2>/dev/null && {
        durable && limited xargs -0 -r rm -f -- <"$work/verified"
        return
    }
    late $? && return 1
    take_placed || return
    : >"$work/kept"
    limited xargs -0 -r sh -c "$behind_link"'
        buffer=$1 kept=$2 name=$3 last=
        shift 3
        for f do
            [ -e "$f" ] || continue
            if behind_link "$buffer" "${f%/*}"; then
                printf "MNot a directory\0K%s\0" "$f" && printf "%s\0" "$f" >&3 || exit
                continue
            fi
            why=$(cp -lP --parents -t "$buffer" -- "$f" 2>&1) && continue
            if [ "${f%/*}" != "$last" ]; then
                last=${f%/*} closed=
                if rm -f -- "$buffer/$last/$name" && : >"$last/$name"; then
                    cp -lP --parents -t "$buffer" -- "$last/$name" 2>/dev/null || closed=C
                fi
                rm -f -- "$last/$name" "$buffer/$last/$name"
            fi
            [ -z "$closed" ] || printf "C%s\0" "$f" || exit
            printf "M%s\0K%s\0" "$why" "$f" && printf "%s\0" "$f" >&3 || exit
        done 3>>"$kept"' sh "$buffer" "$work/kept" ".dbb~probe-${attempt%.r}" \
        <"$work/left" >"$work/answer" || return
    take_placed || return
    [ -s "$work/kept" ] || { still_there "$work/kept"; return; }
    takes || return
    cd "$buffer" && there <"$work/kept" >>"$work/answer" && limited sync -f . && printf answer
}

# Try whether the buffer takes what was verified, which are files of ours, and remove them again.
op_tryplace() {
    [ -e "$work/verified" ] && made_there && links=$(linked) || return
    [ -z "$links" ] || fail "no such file can be placed in $buffer: Not a directory" || return
    cd "$buffer" && limited xargs -0 -r rm -f -- <"$work/verified" && cd "$work/t" || return
    problem=$(limited xargs -0 -r cp -lP --parents -t "$buffer" -- <"$work/verified" 2>&1)
    cd "$buffer" && limited xargs -0 -r rm -f -- <"$work/verified"
    [ -z "$problem" ] || fail "no such file can be placed in $buffer: $problem"
}

# Remove from t/ what was placed: what the buffer has, and what it had until the finder there moved
# it on. A file whose only name was in t/ when it was verified, and that has another one now, was
# linked by us. (Where files of a batch were one file under several names, as rsync -H makes them,
# and where the finder copied the file and removed our link, nothing is known: placing it once more
# is the lesser evil.)
take_placed() {
    limited xargs -0 -r sh -c '
        for f do if [ -e "$f" ]; then printf "%s\0" "$f" || exit; fi; done' sh \
        <"$work/verified" >"$work/left" &&
        limited xargs -0 -r stat -c %h -- <"$work/left" >"$work/links" &&
        limited xargs -0 -r sh -c "$behind_link"'
            work=$1 buffer=$2
            shift 2
            for f do
                read -r links <&3 || exit
                if { [ "$f" -ef "$buffer/$f" ] && ! behind_link "$buffer" "${f%/*}"; } ||
                    { [ -e "$work/single" ] && [ "$links" -gt 1 ]; }
                then printf "%s\0" "$f" || exit
                fi
            done' sh "$work" "$buffer" <"$work/left" 3<"$work/links" >"$work/placed" &&
        durable && limited xargs -0 -r rm -f -- <"$work/placed"
}

# Try with a file of ours, after others could not be placed, whether the buffer takes any.
takes() {
    roots || return
    name=.dbb~${attempt%.r}
    problem=$(rm -f -- "$buffer/$name" && cd "$work" && : >"$name" &&
        limited cp -lP --parents -t "$buffer" -- "./$name" 2>&1) ||
        problem=${problem:-nothing can be written}
    rm -f -- "$buffer/$name"
    [ -z "$problem" ] || fail "no file can be placed in $buffer: $problem"
}

# Make the names in the buffer's directories of this batch survive a power cut. Where one of these
# directories is missing, or cannot be opened, the whole file system is synchronized.
durable() {
    (cd "$buffer" && { limited xargs -0 -r sync -- <"$work/dirs" 2>/dev/null || limited sync -f .; })
}

# Try with two files of ours whether op_place places, and refuses a name that is taken.
op_trial() {
    roots && mkdir -- "$work" || return
    problem=$({ tools "$1" && cd "$work" && placed_once; } 2>&1 7>&1)
    failed=$?
    rm -rf -- "$work"
    [ "$failed" = 0 ] || fail "$problem"
}

placed_once() {
    name=.dbb~$attempt
    echo first >"$name"
    problem=$(limited cp -lP --parents -t "$buffer" -- "./$name" 2>&1)
    if [ -z "$problem" ]; then
        rm -f -- "$name"
        echo second >"$name"
        limited cp -lP --parents -t "$buffer" -- "./$name" 2>/dev/null
        [ "$(cat -- "$buffer/$name")" = first ] || problem="cp -l overwrites a file in $buffer"
    fi
    rm -f -- "$buffer/$name"
    [ -z "$problem" ] || fail "$problem"
}

# Take an attempt over from a pass that was killed. Answers "verified", "arrived" or "nothing".
op_take_over() {
    roots && cd "$staging" || return
    [ ! -d "$attempt" ] || mv -T -- "$attempt" "$attempt.r" || return
    if [ -e "$attempt.r/verified" ]; then
        printf verified
    elif [ -d "$attempt.r/t" ]; then
        printf arrived
    else
        printf nothing
    fi
}

# Answer time of modification and permissions of what arrived: "SECONDS MODE  NAME" and NUL.
op_modes_and_times() {
    cd "$work/t" && answer xargs -0 -r stat --printf='%Y %a  %n\0' -- <"$work/names" &&
        printf answer
}

# Answer the receipt of an attempt that was taken over.
op_receipt() {
    cat -- "$work/verified" >"$work/answer" && printf answer
}

# Remove what a transfer that was cut off left of the batch, by name alone, in $1 below staging.
# Answers how many there were.
op_partials() {
    removed=0
    [ ! -d "$staging/$1" ] || removed=$(cd "$staging/$1" && limited xargs -0 -r sh -c '
        for f do
            f=./${f##*/}
            [ ! -f "$f" ] || { rm -f -- "$f" && echo; }
        done' sh <"$work/names" | wc -l)
    printf %s "$removed"
}

op_space() {
    stat -f -c '%a %S' -- "$staging"
}

# Remove an attempt: first it gets a name under which no step looks for it.
op_clean() {
    [ ! -e "$buffer/.dbb~$attempt" ] || rm -f -- "$buffer/.dbb~$attempt"
    cd "$staging" || return
    for each in "$attempt" "$attempt.r"; do
        [ ! -d "$each" ] || { cleared "$each.x" && mv -T -- "$each" "$each.x"; } || return
        cleared "$each.x" || return
    done
}

# Remove a directory if there is one: most often there is none.
cleared() {
    { [ ! -e "$1" ] && [ ! -L "$1" ]; } || limited rm -rf -- "$1"
}

# End what a failed or killed transfer left running here: its command line has a path in the attempt,
# also where `read` omits the NUL bytes. A log or a probe that is named after it is no such path.
op_end() {
    for each in /proc/[0-9]*; do
        line=
        { read -r line <"$each/cmdline"; } 2>/dev/null
        case $line in
        *"$staging/$attempt/"*) kill -9 "${each##*/}" 2>/dev/null ;;
        esac
    done
    return 0
}

# List the attempts whose names begin so, one a line: seconds since their last change, and the name.
# Both times are of the clock that stamps files here. A change in the future was made while that
# clock was ahead, and counts from now on.
op_list() {
    cd "$staging" || return
    now=$(touch -c -- . 2>/dev/null && stat -c %Y -- .) || now=$(date +%s)
    for each in "$attempt"*; do
        [ -d "$each" ] || continue
        age=$((now - $(stat -c %Y -- "$each")))
        [ "$age" -ge 0 ] || touch -c -- "$each"
        printf '%s %s\n' "$age" "$each"
    done
}

# GNU tar is faster by large records; others do not know the options.
tar_options=
case $(tar --version 2>&1) in
*"GNU tar"*) tar_options="-b 128 --warning=no-timestamp" ;;
esac

while read -r op attempt limit bytes argument; do
    work=$staging/$attempt
    [ "$op" = put ] || [ ! -e "$work/answer" ] || rm -f -- "$work/answer"
    case $op in
    put) text=$(op_put "$argument" 2>&1) ;;
    unpack | append) text=$("op_$op" "$argument" 2>&1) ;;
    *) text=$("op_$op" "$argument" 7>&1 2>&1 </dev/null) ;;
    esac
    code=$?
    size=
    case $code-$op-$text in
    0-look-*answer | 0-modes_and_times-*answer | 0-place-*answer | 0-receipt-*answer | 0-verify-*answer)
        size=$(stat -c %s -- "$work/answer" 2>&1) || code=1 text=$size
        ;;
    esac
    if [ "$code" != 0 ]; then
        case $text in
        *"$staging"* | *"$buffer"*) ;;
        *) text="$staging: ${text:-exit code $code}" ;;
        esac
        printf '%s no %s\n%s' "$nonce" "${#text}" "$text"
        case $op in put | unpack | append) exit ;; esac
    elif [ -n "$size" ]; then
        printf '%s ok %s\n' "$nonce" "$size"
        cat -- "$work/answer" || exit
    else
        printf '%s ok %s\n%s' "$nonce" "${#text}" "$text"
    fi
done
