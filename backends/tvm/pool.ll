; The threads of native code. A parallel loop is cut into tasks, an equal share of which, one after
; the other, is for each thread; who is done with its own takes those of others. So what a thread has
; computed it finds in its own cache when the next loop reads it, and no core waits for a slow one.
;
;     caller    states the loop, wakes who sleeps, takes tasks until none is left, waits for the rest
;     worker    waits for a loop, takes tasks until none is left, waits again
;
; Waiting is a short spin and then sleep. So threads that have nothing to do leave their cores to
; other processes, and are the first to get them back. The caller never waits for a worker that has
; not begun: it does the tasks itself. A second caller at the same time does all of its own.
;
; The text is part of each module. There its functions are written out where they are called, so
; what needs an address is a function of the module's own (threads.py): it calls one of these, and
; says what follows a dollar sign.

%Pool = type {
  [64 x i8],  ;  0  mutex: over falling asleep and waking
  [64 x i8],  ;  1  condition: there is a loop
  [64 x i8],  ;  2  condition: the loop is done
  i32,        ;  3  0 as it comes, 1 while it is made ready, 2 ready
  i32,        ;  4  how many threads take part, the caller among them
  i32,        ;  5  workers that were started
  i32,        ;  6  whether a caller is in a loop
  i32,        ;  7  workers that sleep
  i32,        ;  8  what a task that failed gave, for Python to see
  [40 x i8],  ;  9
  ptr,        ; 10  the loop: a function of (number of the task, environment, data)
  ptr,        ; 11  its data
  [48 x i8],  ; 12
  i64,        ; 13  its number, and in the lower 16 bits for how many threads it has tasks
  [56 x i8],  ; 14
  i32,        ; 15  tasks that are not done
  [60 x i8],  ; 16
  [$most x %Share]  ; 17  of each thread
}
%Share = type {
  i64,        ; the number of a loop, and in the lower 16 bits how many tasks of it are taken
  [56 x i8]
}
%Environment = type { ptr, i32 }  ; TVM's: nothing, and the number of tasks
%Seat = type { ptr, i32 }         ; a worker's: the pool, and its number from 1

@weft_pool = hidden global ptr null
@__TVMBackendParallelLaunch = external global ptr  ; what TVM's code calls for a parallel loop

declare i32 @weft_launch(ptr, ptr, i32)  ; calls weft_loop
declare i32 @weft_work(ptr)              ; calls weft_life

declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare ptr @malloc(i64)
declare void @free(ptr)

; What a step begins with: loops of this module go to this pool, which has its workers.
define i32 @weft_enter(ptr %pool) {
entry:
  store ptr %pool, ptr @weft_pool
  store ptr @weft_launch, ptr @__TVMBackendParallelLaunch
  %ready = getelementptr %Pool, ptr %pool, i32 0, i32 3
  br label %look

look:
  %state = load atomic i32, ptr %ready acquire, align 4
  %made = icmp eq i32 %state, 2
  br i1 %made, label %staff, label %first

first:
  %pair = cmpxchg ptr %ready, i32 0, i32 1 acq_rel acquire
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %make, label %pause

pause:
  $pause
  br label %look

make:
  %work = getelementptr %Pool, ptr %pool, i32 0, i32 1
  %done = getelementptr %Pool, ptr %pool, i32 0, i32 2
  %m = call i32 @pthread_mutex_init(ptr %pool, ptr null)
  %w = call i32 @pthread_cond_init(ptr %work, ptr null)
  %d = call i32 @pthread_cond_init(ptr %done, ptr null)
  store atomic i32 2, ptr %ready release, align 4
  br label %staff

staff:
  %widths = getelementptr %Pool, ptr %pool, i32 0, i32 4
  %startedp = getelementptr %Pool, ptr %pool, i32 0, i32 5
  %width = load atomic i32, ptr %widths monotonic, align 4
  %started = load atomic i32, ptr %startedp acquire, align 4
  %number = add i32 %started, 1
  %few = icmp slt i32 %number, %width
  br i1 %few, label %hire, label %end

hire:
  %hired = cmpxchg ptr %startedp, i32 %started, i32 %number acq_rel acquire
  %won = extractvalue { i32, i1 } %hired, 1
  br i1 %won, label %start, label %staff

start:
  %thread = call ptr @malloc(i64 8)
  %seat = call ptr @malloc(i64 16)
  store ptr %pool, ptr %seat
  %numberp = getelementptr %Seat, ptr %seat, i32 0, i32 1
  store i32 %number, ptr %numberp
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @weft_work, ptr %seat)
  %is = icmp eq i32 %failed, 0
  br i1 %is, label %detach, label %staff  ; the others do its work

detach:
  %handle = load ptr, ptr %thread
  %gone = call i32 @pthread_detach(ptr %handle)
  call void @free(ptr %thread)
  br label %staff

end:
  ret i32 0
}

; Take tasks until none is left, those of this seat first.
;
; What is read of a loop holds if a task of it can then be taken. For a loop that is done, every share
; says that its tasks are taken, or has the number of a later loop.
define void @weft_tasks(ptr %pool, i32 %seat) {
entry:
  %environment = alloca %Environment
  store ptr null, ptr %environment
  %countp = getelementptr %Environment, ptr %environment, i32 0, i32 1
  %lambdap = getelementptr %Pool, ptr %pool, i32 0, i32 10
  %datap = getelementptr %Pool, ptr %pool, i32 0, i32 11
  %loopp = getelementptr %Pool, ptr %pool, i32 0, i32 13
  %leftp = getelementptr %Pool, ptr %pool, i32 0, i32 15
  %loop = load atomic i64, ptr %loopp acquire, align 8
  %lambda = load atomic ptr, ptr %lambdap monotonic, align 8
  %data = load atomic ptr, ptr %datap monotonic, align 8
  %number = lshr i64 %loop, 16
  %none = shl i64 %number, 16
  %low = and i64 %loop, 65535
  %width = trunc i64 %low to i32
  %tasks = mul i32 %width, $share
  store i32 %tasks, ptr %countp
  br label %share

share:
  %turn = phi i32 [ 0, %entry ], [ %turns, %taken ]
  %more = icmp ult i32 %turn, %width
  br i1 %more, label %choose, label %end

choose:
  %far = add i32 %seat, %turn
  %whose = urem i32 %far, %width
  %sharep = getelementptr %Pool, ptr %pool, i32 0, i32 17, i32 %whose, i32 0
  br label %look

look:
  %found = load atomic i64, ptr %sharep acquire, align 8
  %old = icmp ult i64 %found, %none
  %state = select i1 %old, i64 %none, i64 %found
  %next = sub i64 %state, %none
  %open = icmp ult i64 %next, $share
  br i1 %open, label %claim, label %taken

claim:
  %after = add i64 %state, 1
  %pair = cmpxchg ptr %sharep, i64 %found, i64 %after acq_rel acquire
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %run, label %look

taken:
  %turns = add i32 %turn, 1
  br label %share

run:
  %short = trunc i64 %next to i32
  %first = mul i32 %whose, $share
  %task = add i32 %first, %short
  %result = call i32 %lambda(i32 %task, ptr %environment, ptr %data)
  %well = icmp eq i32 %result, 0
  br i1 %well, label %finish, label %fail

fail:
  %faultp = getelementptr %Pool, ptr %pool, i32 0, i32 8
  store atomic i32 %result, ptr %faultp monotonic, align 4
  br label %finish

finish:
  %left = atomicrmw sub ptr %leftp, i32 1 acq_rel
  %last = icmp eq i32 %left, 1
  br i1 %last, label %tell, label %look

tell:
  %done = getelementptr %Pool, ptr %pool, i32 0, i32 2
  %l = call i32 @pthread_mutex_lock(ptr %pool)
  %s = call i32 @pthread_cond_signal(ptr %done)
  %u = call i32 @pthread_mutex_unlock(ptr %pool)
  br label %look

end:
  ret void
}

; A parallel loop. TVM's code asks for `asked` tasks, 0 for as many as suit.
define i32 @weft_loop(ptr %lambda, ptr %data, i32 %asked) {
entry:
  %pool = load ptr, ptr @weft_pool
  %widthp = getelementptr %Pool, ptr %pool, i32 0, i32 4
  %busyp = getelementptr %Pool, ptr %pool, i32 0, i32 6
  %width = load atomic i32, ptr %widthp monotonic, align 4
  %many = icmp sgt i32 %width, 1
  br i1 %many, label %ask, label %alone

ask:
  %pair = cmpxchg ptr %busyp, i32 0, i32 1 acq_rel acquire
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %state, label %alone

alone:
  %environment = alloca %Environment
  store ptr null, ptr %environment
  %countp = getelementptr %Environment, ptr %environment, i32 0, i32 1
  store i32 1, ptr %countp
  %only = call i32 %lambda(i32 0, ptr %environment, ptr %data)
  %well = icmp eq i32 %only, 0
  br i1 %well, label %out, label %fail

fail:
  %faultp = getelementptr %Pool, ptr %pool, i32 0, i32 8
  store atomic i32 %only, ptr %faultp monotonic, align 4
  br label %out

state:
  %lambdap = getelementptr %Pool, ptr %pool, i32 0, i32 10
  %datap = getelementptr %Pool, ptr %pool, i32 0, i32 11
  %loopp = getelementptr %Pool, ptr %pool, i32 0, i32 13
  %leftp = getelementptr %Pool, ptr %pool, i32 0, i32 15
  %tasks = mul i32 %width, $share
  store atomic ptr %lambda, ptr %lambdap monotonic, align 8
  store atomic ptr %data, ptr %datap monotonic, align 8
  store atomic i32 %tasks, ptr %leftp monotonic, align 4
  %old = load atomic i64, ptr %loopp monotonic, align 8
  %before = lshr i64 %old, 16
  %number = add i64 %before, 1
  %high = shl i64 %number, 16
  %low = zext i32 %width to i64
  %loop = or i64 %high, %low
  store atomic i64 %loop, ptr %loopp seq_cst, align 8
  %asleepp = getelementptr %Pool, ptr %pool, i32 0, i32 7
  %asleep = load atomic i32, ptr %asleepp seq_cst, align 4
  %none = icmp eq i32 %asleep, 0
  br i1 %none, label %work, label %wake

wake:
  %workp = getelementptr %Pool, ptr %pool, i32 0, i32 1
  %l = call i32 @pthread_mutex_lock(ptr %pool)
  %b = call i32 @pthread_cond_broadcast(ptr %workp)
  %u = call i32 @pthread_mutex_unlock(ptr %pool)
  br label %work

work:
  call void @weft_tasks(ptr %pool, i32 0)
  br label %spin

spin:
  %turn = phi i32 [ 0, %work ], [ %more, %again ]
  %left = load atomic i32, ptr %leftp acquire, align 4
  %over = icmp eq i32 %left, 0
  br i1 %over, label %end, label %patience

patience:
  %more = add i32 %turn, 1
  %patient = icmp slt i32 %more, $spins
  br i1 %patient, label %again, label %sleep

again:
  $pause
  br label %spin

sleep:
  %donep = getelementptr %Pool, ptr %pool, i32 0, i32 2
  %l2 = call i32 @pthread_mutex_lock(ptr %pool)
  br label %check

check:
  %rest = load atomic i32, ptr %leftp acquire, align 4
  %all = icmp eq i32 %rest, 0
  br i1 %all, label %up, label %wait

wait:
  %w = call i32 @pthread_cond_wait(ptr %donep, ptr %pool)
  br label %check

up:
  %u2 = call i32 @pthread_mutex_unlock(ptr %pool)
  br label %end

end:
  store atomic i32 0, ptr %busyp release, align 4
  br label %out

out:
  ret i32 0
}

; What a worker does: it never returns.
define i32 @weft_life(ptr %seat) {
entry:
  %pool = load ptr, ptr %seat
  %numberp = getelementptr %Seat, ptr %seat, i32 0, i32 1
  %number = load i32, ptr %numberp
  %widthp = getelementptr %Pool, ptr %pool, i32 0, i32 4
  %asleepp = getelementptr %Pool, ptr %pool, i32 0, i32 7
  %workp = getelementptr %Pool, ptr %pool, i32 0, i32 1
  %loopp = getelementptr %Pool, ptr %pool, i32 0, i32 13
  %mode = call i32 @weft_flush()
  br label %spin

spin:
  %seen = phi i64 [ 0, %entry ], [ %seen, %again ], [ %seen, %up ], [ %loop, %turn ]
  %turns = phi i32 [ 0, %entry ], [ %more, %again ], [ 0, %up ], [ 0, %turn ]
  %loop = load atomic i64, ptr %loopp acquire, align 8
  %same = icmp eq i64 %loop, %seen
  br i1 %same, label %patience, label %go

patience:
  %more = add i32 %turns, 1
  %patient = icmp slt i32 %more, $spins
  br i1 %patient, label %again, label %sleep

again:
  $pause
  br label %spin

sleep:
  %l = call i32 @pthread_mutex_lock(ptr %pool)
  %a = atomicrmw add ptr %asleepp, i32 1 seq_cst
  br label %check

check:
  %loop2 = load atomic i64, ptr %loopp seq_cst, align 8
  %still = icmp eq i64 %loop2, %seen
  br i1 %still, label %wait, label %up

wait:
  %w = call i32 @pthread_cond_wait(ptr %workp, ptr %pool)
  br label %check

up:
  %z = atomicrmw sub ptr %asleepp, i32 1 seq_cst
  %u = call i32 @pthread_mutex_unlock(ptr %pool)
  br label %spin

go:
  %width = load atomic i32, ptr %widthp monotonic, align 4
  %wanted = icmp slt i32 %number, %width
  br i1 %wanted, label %help, label %turn

help:
  call void @weft_tasks(ptr %pool, i32 %number)
  br label %turn

turn:
  br label %spin
}
