import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Submits three times, as a Java program does by default, and prints the status of each. */
public class Submits {
    public static void main(String[] words) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder();
        if (words.length > 2) {
            builder.sslContext(trusting(words[2]));
        }
        HttpClient client = builder.build();
        URI place = URI.create(words[0] + "/v1/tasks/qingbo");
        for (int turn = 0; turn < 3; turn++) {
            HttpRequest request = HttpRequest.newBuilder(place)
                    .header("Content-Type", "application/json")
                    .POST(HttpRequest.BodyPublishers.ofString(words[1]))
                    .build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }

    private static SSLContext trusting(String path) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream file = new FileInputStream(path)) {
            store.setCertificateEntry("edge", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
