%% Erlang's distribution over unix domain sockets, as beamnode's carrier `Unix` has it: the node a@h listens on the
%% socket file DIRECTORY/a@h, and whoever may write to that file may connect.
%%
%%     erlc local_dist.erl
%%     erl -name a@h -pa . -proto_dist local -start_epmd false -local_dist_directory /run/nodes
%%
%% `-proto_dist inet_tcp local` has both: nodes with a file are dialled over it, all others over TCP. Frames are those of
%% TCP: behind two bytes of length in the handshake, behind four when it is over.
-module(local_dist).

-export([listen/1, listen/2, accept/1, accept_connection/5, setup/5, close/1, select/1, address/0, is_node_name/1]).
-export([setopts/2, getopts/2, getstat/1, tick/1]).

-include_lib("kernel/include/net_address.hrl").
-include_lib("kernel/include/dist.hrl").
-include_lib("kernel/include/dist_util.hrl").

-define(VERSION, 6). % of the handshake
-define(BACKLOG, 128).
-define(RETRY_MILLISECONDS, 10). % a unix socket whose backlog is full says eagain

%% --- What net_kernel asks of a distribution ---------------------------------------------------------------------------

select(Node) ->
    is_node_name(Node) andalso is_there(path(Node)).

is_node_name(Node) when is_atom(Node) ->
    length(string:split(atom_to_list(Node), "@", all)) =:= 2;
is_node_name(_) ->
    false.

address() ->
    address(undefined, "").

address(Path, Host) ->
    #net_address{address = {local, Path}, host = Host, protocol = local, family = local}.

listen(Name) ->
    {ok, Host} = inet:gethostname(),
    listen(Name, Host).

listen(Name, Host) ->
    Path = path(list_to_atom(atom_to_list(Name) ++ "@" ++ Host)),
    case is_alive(Path) of
        true ->
            {error, duplicate_name};
        false ->
            _ = is_there(Path) andalso prim_file:delete(Path),
            Options = [{ifaddr, {local, Path}}, {active, false}, {packet, 2}, {backlog, ?BACKLOG}],
            case gen_tcp:listen(0, Options) of
                {ok, Socket} -> {ok, {Socket, address(Path, Host), creation()}};
                Error -> Error
            end
    end.

close(Socket) ->
    case inet:sockname(Socket) of
        {ok, {local, Path}} when Path =/= <<>> -> prim_file:delete(Path);
        _ -> ok
    end,
    gen_tcp:close(Socket).

%% --- Accepting --------------------------------------------------------------------------------------------------------

accept(Listen) ->
    Kernel = self(),
    spawn_opt(fun () -> accept_loop(Kernel, Listen) end, [link, {priority, max}]).

accept_loop(Kernel, Listen) ->
    case gen_tcp:accept(Listen) of
        {ok, Socket} ->
            Kernel ! {accept, self(), Socket, local, local},
            receive
                {Kernel, controller, Pid} ->
                    ok = gen_tcp:controlling_process(Socket, Pid),
                    Pid ! {self(), controller};
                {Kernel, unsupported_protocol} ->
                    exit(unsupported_protocol)
            end,
            accept_loop(Kernel, Listen);
        Error ->
            exit(Error)
    end.

accept_connection(Acceptor, Socket, MyNode, Allowed, SetupTime) ->
    Kernel = self(),
    Accept = fun () ->
        receive
            {Acceptor, controller} ->
                Data = hs_data(Kernel, MyNode, Socket, dist_util:start_timer(SetupTime)),
                dist_util:handshake_other_started(Data#hs_data{allowed = Allowed})
        end
    end,
    spawn_opt(Accept, [link, {priority, max}]).

%% --- Dialling ---------------------------------------------------------------------------------------------------------

setup(Node, Type, MyNode, _LongOrShortNames, SetupTime) ->
    Kernel = self(),
    Dial = fun () ->
        Timer = dist_util:start_timer(SetupTime),
        case connect(path(Node), [{active, false}, {packet, 2}]) of
            {ok, Socket} ->
                dist_util:reset_timer(Timer),
                Data = hs_data(Kernel, MyNode, Socket, Timer),
                dist_util:handshake_we_started(
                    Data#hs_data{other_node = Node, other_version = ?VERSION, request_type = Type}
                );
            _ ->
                ?shutdown(Node)
        end
    end,
    spawn_opt(Dial, [link, {priority, max}]).

connect(Path, Options) ->
    case gen_tcp:connect({local, Path}, 0, Options) of
        {error, eagain} ->
            timer:sleep(?RETRY_MILLISECONDS), % until the timer of the set-up ends this process
            connect(Path, Options);
        Result ->
            Result
    end.

%% --- A connection -----------------------------------------------------------------------------------------------------

hs_data(Kernel, MyNode, Socket, Timer) ->
    #hs_data{
        kernel_pid = Kernel,
        this_node = MyNode,
        socket = Socket,
        timer = Timer,
        this_flags = 0,
        f_send = fun gen_tcp:send/2,
        f_recv = fun gen_tcp:recv/3,
        f_setopts_pre_nodeup = fun (S) -> inet:setopts(S, [{active, false}, {packet, 4}]) end,
        f_setopts_post_nodeup = fun (S) -> inet:setopts(S, [{active, true}, {deliver, port}, {packet, 4}, binary]) end,
        f_getll = fun inet:getll/1,
        f_address = fun (_, Node) -> address(path(Node), host(Node)) end,
        mf_tick = fun ?MODULE:tick/1,
        mf_getstat = fun ?MODULE:getstat/1,
        mf_setopts = fun ?MODULE:setopts/2,
        mf_getopts = fun ?MODULE:getopts/2
    }.

%% An empty frame, sent even when the port is busy.
tick(Socket) ->
    case local_tcp:send(Socket, [], [force]) of
        {error, closed} = Error ->
            self() ! {tcp_closed, Socket},
            Error;
        Result ->
            Result
    end.

getstat(Socket) ->
    case inet:getstat(Socket, [recv_cnt, send_cnt, send_pend]) of
        {ok, Counts} ->
            [Received, Sent, Pending] = [proplists:get_value(K, Counts, 0) || K <- [recv_cnt, send_cnt, send_pend]],
            {ok, Received, Sent, Pending};
        Error ->
            Error
    end.

setopts(Socket, Options) ->
    case [Option || {Key, _} = Option <- Options, lists:member(Key, [active, deliver, packet])] of
        [] -> inet:setopts(Socket, Options);
        Ours -> {error, {badopts, Ours}}
    end.

getopts(Socket, Options) ->
    inet:getopts(Socket, Options).

%% --- Files ------------------------------------------------------------------------------------------------------------

path(Node) ->
    {ok, [[Directory]]} = init:get_argument(local_dist_directory),
    unicode:characters_to_binary(filename:join(Directory, atom_to_list(Node))).

host(Node) ->
    lists:last(string:split(atom_to_list(Node), "@")).

is_there(Path) ->
    element(1, prim_file:read_file_info(Path)) =:= ok.

is_alive(Path) ->
    case gen_tcp:connect({local, Path}, 0, [{active, false}]) of
        {ok, Socket} -> gen_tcp:close(Socket), true;
        {error, eagain} -> true;
        {error, _} -> false
    end.

%% Nobody gives this node one: any number that a life of the node before it is unlikely to have had.
creation() ->
    4 + erlang:phash2({erlang:unique_integer(), os:getpid(), erlang:system_time()}, 1 bsl 32 - 4).
