// A connection to Rainbow that lasts: messages of QoS 0, 1 and 2 both ways, sessions, reconnection.

#import <Rainbow/RBWConfiguration.h>
#import <Rainbow/RBWError.h>
#import <Rainbow/RBWMessage.h>

@class RBWHeartbeat, RBWInbox, RBWOpening, RBWOutbox, RBWSessionIDs, RBWTimer;
@protocol RBWTransport;

NS_ASSUME_NONNULL_BEGIN

@protocol RBWClientDelegate;

typedef NS_ENUM(NSInteger, RBWState) {
    /// Nothing happens by itself.
    RBWStateClosed,
    /// For the next attempt.
    RBWStateWaiting,
    RBWStateConnecting,
    RBWStateOpen,
} NS_SWIFT_NAME(RainbowState);

/// Ends the handling of a message, at once or later. The body is the reply to a message of QoS 1 and 2. A second call does nothing.
typedef void (^RBWReply)(NSData *_Nullable body) NS_SWIFT_NAME(RainbowReply);
typedef void (^RBWMessageHandler)(RBWMessage *message, RBWReply reply) NS_SWIFT_NAME(RainbowMessageHandler);
typedef void (^RBWOpenCompletion)(RBWGreeting *_Nullable greeting, NSError *_Nullable error) NS_SWIFT_NAME(RainbowOpenCompletion);
typedef void (^RBWSendCompletion)(RBWBody *_Nullable answer, NSError *_Nullable error) NS_SWIFT_NAME(RainbowSendCompletion);

/// A client belongs to the thread that makes it, and works on that thread's run loop: it calls its handlers, its delegate and
/// completions there. Set those and read its properties there, too. Its other methods, and a `reply`, may be called on any thread.
/// An open client lives until it is closed.
///
/// A message of QoS 1 or 2 outlives its connection: it is sent again on the next one, until its own timeout ends.
NS_SWIFT_NAME(RainbowClient)
@interface RBWClient : NSObject {
@private
    NSThread *_thread;
    NSURL *_url;
    RBWConfiguration *_configuration;
    RBWState _state;
    RBWGreeting *_greeting;
    RBWOutbox *_outbox;
    RBWInbox *_inbox;
    RBWHeartbeat *_heartbeat;
    RBWSessionIDs *_ids;
    /// Those who wait for `open`.
    NSMutableArray<RBWOpening *> *_openings;

    id<RBWTransport> _transport;
    /// What the present attempt is known by; parameters of an older one come too late.
    NSObject *_attempt;
    RBWTimer *_attemptTimer;
    RBWTimer *_retryTimer;
    RBWTimer *_pulseTimer;
    BOOL _speaksProtocol2;
    BOOL _isConnected;
    NSTimeInterval _connectedAt;
    /// In a row.
    NSInteger _failures;
    /// `close` was called, or a final code came. What is sent before the first `open` waits for it.
    BOOL _hasEnded;
    /// This client, from `open` to the end.
    RBWClient *_itself;

    RBW_WEAK_IVAR id<RBWClientDelegate> _delegate;
    void (^_openHandler)(RBWGreeting *greeting);
    void (^_closeHandler)(RBWClosing *closing);
    RBWMessageHandler _messageHandler;
    void (^_errorHandler)(NSError *error);
}

/// `url`: ws(s):// or http(s)://. An empty path means /connect/.
- (instancetype)initWithURL:(NSURL *)url;
- (instancetype)initWithURL:(NSURL *)url
              configuration:(nullable RBWConfiguration *)configuration NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@property (nonatomic, readonly) RBWState state;
@property (nonatomic, readonly, copy) NSString *deviceID;
/// Sends that still wait for an answer.
@property (nonatomic, readonly) NSUInteger pendingCount;
/// How the present connection, or the last one, began.
@property (nonatomic, readonly, nullable) RBWGreeting *greeting;

@property (nonatomic, RBW_WEAK, nullable) id<RBWClientDelegate> delegate;

/// Each time that the client is open.
@property (nonatomic, copy, nullable) void (^openHandler)(RBWGreeting *greeting);
/// Each time that a connection has ended or an attempt has failed.
@property (nonatomic, copy, nullable) void (^closeHandler)(RBWClosing *closing);
/// Every message. It must call `reply`: until then the server is not told that the message was handled. The next messages do
/// not wait for it. Without it they go to the delegate, and without that one they are acknowledged and forgotten.
@property (nonatomic, copy, nullable) RBWMessageHandler messageHandler;
/// What went wrong without being an answer to anything.
@property (nonatomic, copy, nullable) void (^errorHandler)(NSError *error);

/// Connects, and stays connected until `close` or a close code that is final: 4401, 4409, 4500–4999 but 4503.
- (void)open NS_SWIFT_NAME(open());
/// The completion is called when it is open for the first time, or when none of its attempts will be followed by another.
- (void)openWithCompletion:(nullable RBWOpenCompletion)completion
    NS_SWIFT_NAME(open(completion:)) NS_SWIFT_ASYNC_NAME(opened());

/// Ends the connection and all attempts. What is unanswered fails with RBWErrorClosed.
- (void)close NS_SWIFT_NAME(close());
- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason NS_SWIFT_NAME(close(code:reason:));

/// Tries the line now: an open one is asked for a sign of life if it has been silent, and a backoff ends. For an application
/// that comes to the foreground or hears that there is a network again. On iOS the former is done by itself.
- (void)wake NS_SWIFT_NAME(wake());

/// Sends a message of a type from 0 to 65534. The completion is called once: with QoS 0 when the message is given to the
/// connection, with QoS 1 and 2 when the business server's answer is here. Before the first `open` it waits for it.
- (void)sendData:(NSData *)data
            type:(uint16_t)type
             qos:(RBWQoS)qos
      completion:(nullable RBWSendCompletion)completion NS_SWIFT_NAME(send(_:type:qos:completion:));
- (void)sendText:(NSString *)text
            type:(uint16_t)type
             qos:(RBWQoS)qos
      completion:(nullable RBWSendCompletion)completion NS_SWIFT_NAME(send(text:type:qos:completion:));
/// `object`: what NSJSONSerialization takes. Anything else raises NSInvalidArgumentException.
- (void)sendJSONObject:(id)object
                  type:(uint16_t)type
                   qos:(RBWQoS)qos
            completion:(nullable RBWSendCompletion)completion NS_SWIFT_NAME(send(json:type:qos:completion:));
/// `timeout`: seconds; 0 waits for ever.
- (void)sendData:(NSData *)data
            type:(uint16_t)type
             qos:(RBWQoS)qos
         timeout:(NSTimeInterval)timeout
      completion:(nullable RBWSendCompletion)completion NS_SWIFT_NAME(send(_:type:qos:timeout:completion:));

@end

/// The same as the handlers, for who prefers it. Called after the handler of the same name, where there is one.
NS_SWIFT_NAME(RainbowClientDelegate)
@protocol RBWClientDelegate <NSObject>
@optional

- (void)client:(RBWClient *)client didOpen:(RBWGreeting *)greeting;
- (void)client:(RBWClient *)client didClose:(RBWClosing *)closing;
/// Not called while there is a `messageHandler`, since one of them replies.
- (void)client:(RBWClient *)client didReceiveMessage:(RBWMessage *)message reply:(RBWReply)reply;
- (void)client:(RBWClient *)client didFail:(NSError *)error;

@end

NS_ASSUME_NONNULL_END
